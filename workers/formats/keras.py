"""Keras: `.keras` files of Keras 3, and `.h5` files of all versions, opened by Keras 3 on PyTorch.

Sources: https://keras.io/guides/serialization_and_saving/, and for `.h5` keras/src/legacy/saving/legacy_h5_format.py.
"""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.errors import InvalidModel
from workers.archive import damage_named, is_zip, open_zip, zip_names
from workers.formats import implements
from workers.formats.base import Source

if TYPE_CHECKING:
    from workers.torch.opened import OpenedTorch

SAVE_AGAIN = "save the whole model again where it was trained: `model.save('model.keras')`"
_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_MEMBERS = {_CONFIG, _METADATA, _WEIGHTS}
_MOST_CONFIG_BYTES = 64 * 1024 * 1024
_HDF5 = b"\x89HDF\r\n\x1a\n"


@implements("keras")
class Keras:
    """See `formats.base.Format`."""

    file_name = "model.keras"

    def recognizes(self, file: Path) -> bool:
        """A zip of what `model.save` writes, or any HDF5: no other format is one."""
        return set(zip_names(file)) >= _MEMBERS or _is_hdf5(file)

    def find_entry(self, root: Path) -> str | None:
        """The `config.json` of a `.keras` file that was unpacked; `.keras` and `.h5` files are found by `recognizes`."""
        for config in sorted(root.rglob(_CONFIG)):
            if all((config.parent / name).is_file() for name in _MEMBERS):
                return config.relative_to(root).as_posix()
        return None

    def open(self, source: Source) -> "OpenedTorch":
        """The model, once its configuration holds no code.

        Raises:
            UnsafeModel, UnsupportedFormat: a layer holds code, or is none of Keras' own.
            InvalidModel: the file is damaged, holds weights alone, or its inputs are not known.
        """
        from workers.torch.keras import load, opened
        from workers.torch.keras_config import check_config

        suffix, version, config = _read(source.path)
        check_config(config)
        with tempfile.TemporaryDirectory() as folder:
            path = source.path.parent
            if suffix:  # Keras tells its formats by the file's name
                path = Path(folder) / f"model{suffix}"
                path.symlink_to(source.path.resolve())
            model = load(path)
        return opened(model, source.declared, {"producer": f"keras {version}"})


def _is_hdf5(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(_HDF5)) == _HDF5


def _read(path: Path) -> tuple[str, str, dict[str, Any]]:
    """(suffix or "" for a folder, Keras' version, configuration) of a saved model.

    Raises:
        InvalidModel: it is damaged, or holds weights alone.
    """
    if _is_hdf5(path):
        version, text = _read_hdf5(path)
        return ".h5", version, _parsed(text)
    if is_zip(path):
        with damage_named(), open_zip(path) as archive:
            config, metadata = (_member(archive.open(name)) for name in (_CONFIG, _METADATA))
        return ".keras", _version(metadata), _parsed(config)
    if path.name == _CONFIG:
        with path.open("rb") as first, (path.parent / _METADATA).open("rb") as second:
            return "", _version(_member(second)), _parsed(_member(first))
    raise InvalidModel("the file is no Keras model", hint=SAVE_AGAIN)


def _read_hdf5(path: Path) -> tuple[str, str | bytes]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            version, text = (
                file.attrs.get("keras_version", "of an unknown version"),
                file.attrs.get("model_config"),
            )
            names = sorted(file)[:5]
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise InvalidModel(f"the HDF5 file is damaged: {error}", hint="upload it again") from error
    if text is None:
        raise InvalidModel(
            f"the HDF5 file holds no `model_config`, so no Keras model but weights or other data: {names}",
            hint=f"weights alone do not say what the network is: {SAVE_AGAIN}",
        )
    if not isinstance(text, str | bytes):
        raise InvalidModel("the `model_config` of the HDF5 file is no text", hint=SAVE_AGAIN)
    return _text(version), text


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _member(stream: Any) -> bytes:
    data: bytes = stream.read(_MOST_CONFIG_BYTES + 1)
    if len(data) > _MOST_CONFIG_BYTES:
        raise InvalidModel(f"the model's configuration is larger than {_MOST_CONFIG_BYTES} bytes")
    return data


def _version(metadata: bytes) -> str:
    return _text(_parsed(metadata).get("keras_version", "of an unknown version"))


def _parsed(text: str | bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidModel(f"the model's configuration is no JSON: {error}", hint=SAVE_AGAIN) from error
    if not isinstance(found, dict):
        raise InvalidModel("the model's configuration is no JSON object", hint=SAVE_AGAIN)
    return found
