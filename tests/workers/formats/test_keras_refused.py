"""Keras files that hold code, are damaged, or are none: refused by name, and nothing in them runs."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.errors import BurnishError, InvalidModel, UnsafeModel, UnsupportedFormat
from tests.workers.formats.keras_models import opened, saved, seed, sequential
from workers.formats.base import Source
from workers.formats.keras import Keras
from workers.torch.keras import keras_library

keras = keras_library()
layers = keras.layers
# Keras' own, where it saves on PyTorch with numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    seed()


def hostile(kind: str, folder: Path) -> tuple[Path, Path]:
    """A model whose Lambda layer leaves a mark when it runs, and the mark, which is not there yet."""
    mark = folder / "ran"
    write = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    evil = eval(f"lambda x: x if {write} is None else x")
    x = keras.Input((4,))
    model = keras.Model(x, layers.Dense(2)(layers.Lambda(evil, name="innocent")(x)))
    path = folder / f"model.{kind}"
    model.save(path)
    mark.unlink()
    return path, mark


@pytest.mark.parametrize("kind", ["keras", "h5"])
def test_a_lambda_is_refused_by_name_and_never_runs(kind: str, tmp_path: Path) -> None:
    path, mark = hostile(kind, tmp_path)
    with pytest.raises(UnsafeModel, match="innocent") as error:
        opened(path)
    assert error.value.node == "innocent"
    assert "model.export" in (error.value.hint or "")
    assert not mark.exists()
    keras.saving.load_model(path, compile=False, safe_mode=False)
    assert mark.exists()  # it would have


def test_a_wrapped_torch_module_is_refused(tmp_path: Path) -> None:
    import torch

    x = keras.Input((4,))
    wrapped = layers.TorchModuleWrapper(torch.nn.Linear(4, 2), name="wrapped", output_shape=(None, 2))
    with pytest.raises(UnsafeModel, match="wrapped"):
        opened(saved(keras.Model(x, wrapped(x)), tmp_path / "model.keras"))


def test_a_class_of_ones_own_is_refused_by_name(tmp_path: Path) -> None:
    @keras.saving.register_keras_serializable(package="mine")
    class Doubling(layers.Layer):  # type: ignore[misc, name-defined]
        def call(self, x: Any) -> Any:
            return x * 2

    x = keras.Input((4,))
    for name in ("model.keras", "model.h5"):
        keras.Model(x, Doubling(name="doubling")(x)).save(tmp_path / name)
        with pytest.raises(UnsupportedFormat, match=r"doubling.*Doubling") as error:
            opened(tmp_path / name)
        assert error.value.node == "doubling"


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A `.keras` file whose configuration is another."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    change(config)
    out = path.with_name("changed.keras")
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, json.dumps(config) if name == "config.json" else data)
    return out


def dense_config(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(
        layer for layer in config["config"]["layers"] if layer["class_name"] == "Dense"
    )
    return found


@pytest.mark.parametrize(
    ("module", "name"),
    [("keras.saving", "load_model"), ("keras.utils", "get_file"), ("os", "system"), ("", "open")],
)
def test_a_function_that_is_no_operation_is_refused(module: str, name: str, tmp_path: Path) -> None:
    def call(config: dict[str, Any]) -> None:
        told = {"class_name": "function", "module": module, "config": name, "registered_name": name}
        dense_config(config)["config"]["activation"] = told

    with pytest.raises(UnsupportedFormat, match=name.split(".")[-1]):
        opened(changed(saved(sequential(), tmp_path / "model.keras"), call))


def test_a_lookup_layer_is_refused(tmp_path: Path) -> None:
    def look_up(config: dict[str, Any]) -> None:
        dense_config(config).update(
            class_name="StringLookup", config={"name": "words", "vocabulary": "/etc/passwd"}
        )

    with pytest.raises(UnsupportedFormat, match="words"):
        opened(changed(saved(sequential(), tmp_path / "model.keras"), look_up))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda config: dense_config(config)["config"].update(units=5), id="other weights"),
        pytest.param(lambda config: dense_config(config)["config"].update(units="many"), id="no number"),
        pytest.param(lambda config: dense_config(config)["config"].update(nonsense=1), id="unknown argument"),
        pytest.param(lambda config: config["config"].update(layers=[]), id="no layers"),
        pytest.param(lambda config: config["config"].update(layers=7), id="layers are a number"),
        pytest.param(lambda config: config.pop("class_name"), id="no class"),
        pytest.param(lambda config: config.update(class_name=["Dense"]), id="class is a list"),
        pytest.param(lambda config: dense_config(config).update(module=5), id="module is a number"),
    ],
)
def test_a_configuration_that_was_changed_ends_in_a_plain_error(change: Any, tmp_path: Path) -> None:
    with pytest.raises(BurnishError) as error:
        opened(changed(saved(sequential(), tmp_path / "model.keras"), change))
    assert error.value.hint


@pytest.mark.parametrize("kind", ["keras", "h5"])
@pytest.mark.parametrize("part", [0.3, 0.7, 0.95])
def test_a_damaged_file_ends_in_a_plain_error(kind: str, part: float, tmp_path: Path) -> None:
    whole = saved(sequential(), tmp_path / f"model.{kind}").read_bytes()
    (tmp_path / "cut").write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(InvalidModel):
        Keras().open(Source(tmp_path, "cut"))
    middle = len(whole) // 2
    (tmp_path / "torn").write_bytes(whole[: middle - 400] + bytes(800) + whole[middle + 400 :])
    try:
        found = Keras().open(Source(tmp_path, "torn"))
    except BurnishError:
        return
    assert found.inputs  # the hole lies in a weight's bytes


def test_weights_alone_are_refused(tmp_path: Path) -> None:
    sequential().save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(InvalidModel, match="model_config") as error:
        opened(tmp_path / "model.weights.h5")
    assert "model.save" in (error.value.hint or "")


def test_a_model_without_inputs_is_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="not yet been built"):
        keras.Sequential([layers.Dense(4)]).save(tmp_path / "model.keras")
    with pytest.raises(InvalidModel, match="never built"):
        opened(tmp_path / "model.keras")


def test_a_network_that_keeps_state_is_refused(tmp_path: Path) -> None:
    x = keras.Input(batch_shape=(1, 5, 4))
    file = saved(keras.Model(x, layers.LSTM(3, stateful=True, name="memory")(x)), tmp_path / "model.keras")
    with pytest.raises(InvalidModel, match="memory"):
        opened(file)


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04", b"\x89HDF\r\n\x1a", b"{}"], ids=["empty", "zip", "hdf", "json"]
)
def test_other_files_are_not_recognized(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)
    assert not Keras().recognizes(tmp_path / "file")


def test_keras_writes_no_settings_and_calls_nobody(tmp_path: Path) -> None:
    file = saved(sequential(), tmp_path / "model.keras")
    home = tmp_path / "home"
    home.mkdir()
    program = (
        "import pathlib, socket, sys\n"
        "def refuse(*given): raise SystemExit(f'a connection to {given}')\n"
        "socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse\n"
        "from workers.formats.base import Source\n"
        "from workers.formats.keras import Keras\n"
        "model = Keras().open(Source(pathlib.Path(sys.argv[1]), 'model.keras'))\n"
        "print(len(model.inputs))\n"
    )
    environment = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "TMPDIR": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    assert not list(home.iterdir())
    assert file.exists()
