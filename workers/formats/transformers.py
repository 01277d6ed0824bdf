"""Hugging Face Transformers: the folder that `save_pretrained` writes. What opens it is in `workers.torch.transformers`."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.errors import InvalidModel, UnsafeModel, UnsupportedFormat
from app.text import plain
from workers.formats import implements
from workers.formats.base import Source

if TYPE_CHECKING:
    from workers.torch.opened import OpenedTorch

SAVE_AGAIN = "save it again where it was trained: `model.save_pretrained(folder)`, and pack that folder"
_CONFIG, _INDEX, _WEIGHTS = "config.json", "model.safetensors.index.json", "model.safetensors"
_MOST_JSON_BYTES = 64 * 1024 * 1024
_MOST_LISTED = 20
_CODE_KEYS = ("auto_map", "custom_pipelines", "custom_generate")  # what names Python files to run
# what tokenizers and image processors save beside a model; its configuration names the labels
_COMPANIONS = frozenset(
    [
        "added_tokens.json", "chat_template.jinja", "chat_template.json", "config.json", "merges.txt",
        "preprocessor_config.json", "processor_config.json", "sentencepiece.bpe.model", "special_tokens_map.json",
        "spiece.model", "spm.model", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json",
        "vocab.txt",
    ]
)  # fmt: skip


@implements("transformers")
class Transformers:
    """See `formats.base.Format`. Its entry is the folder's `config.json`."""

    file_name = _CONFIG

    def recognizes(self, file: Path) -> bool:
        """No single file is one: configuration and weights are two."""
        return False

    def find_entry(self, root: Path) -> str | None:
        """The `config.json` that names a model type and has weights beside it.

        Raises:
            UnsupportedFormat: the weights are pickles or an adapter's, or there are several models.
            InvalidModel: there are no weights, nor another model.
        """
        folders = [file.parent for file in sorted(root.rglob(_CONFIG)) if _is_config(file)]
        found = [folder for folder in folders if any(folder.glob("*.safetensors"))]
        if len(found) > 1:
            listed = ", ".join(folder.relative_to(root).as_posix() for folder in found[:_MOST_LISTED])
            raise UnsupportedFormat(
                f"the archive holds several transformers models: {listed}", hint="pack one of them"
            )
        if found:
            return (found[0] / _CONFIG).relative_to(root).as_posix()
        for folder in folders:
            _refuse_pickles(folder)
        if folders and all(map(_is_no_model, (path for path in root.rglob("*") if path.is_file()))):
            raise InvalidModel(
                "the archive holds the configuration of a transformers model, and no weights",
                hint=f"pack `model.safetensors` beside `config.json`; {SAVE_AGAIN}",
            )
        return None

    def open(self, source: Source) -> "OpenedTorch":
        """The model by the class of the transformers package that its configuration names.

        Raises:
            UnsafeModel: the configuration asks for code of its own.
            UnsupportedFormat: weights are quantized, or it takes other inputs than text or images.
            InvalidModel: weights are missing, unfit or damaged, or the configuration is wrong.
        """
        config = read_config(source.path)
        files = weight_files(source.path.parent)
        from workers.torch.transformers import opened

        names = sorted(file.name for file in source.path.parent.iterdir() if file.name in _COMPANIONS)
        folder = source.path.parent.relative_to(source.root)
        facts = {"companions": [(folder / name).as_posix() for name in names]}
        return opened(config, files, source.declared, facts)


def read_config(path: Path) -> dict[str, Any]:
    """A model's configuration.

    Raises:
        UnsafeModel: it names code that is to be run.
        UnsupportedFormat: it says that the weights are quantized.
        InvalidModel: it is no JSON object.
    """
    config = _parsed(path)
    for place, key in _keys(config):
        if key in _CODE_KEYS:
            raise UnsafeModel(
                f"{path.name} asks for Python code that comes with the model: {plain(place, 200)!r}",
                param=key,
                hint="models of the transformers package's own classes are opened; export this one to ONNX or `.pt2` "
                "where you trust it",
            )
    if config.get("quantization_config") is not None:
        raise UnsupportedFormat(
            "the model's weights are quantized (`quantization_config`)",
            param="quantization_config",
            hint="upload the model as it was before it was quantized; recipes quantize it",
        )
    return config


def weight_files(folder: Path) -> list[Path]:
    """The `.safetensors` files of a model's weights.

    Raises:
        UnsupportedFormat: they are an adapter's.
        InvalidModel: some are missing, or it is not known which they are.
    """
    if (folder / _INDEX).is_file():
        return _shards(folder)
    files = sorted(folder.glob("*.safetensors"))
    if folder / _WEIGHTS in files:
        return [folder / _WEIGHTS]
    names = [file.name for file in files]
    if names == ["adapter_model.safetensors"]:
        raise _adapter()
    if len(files) != 1:
        raise InvalidModel(
            f"the model's weights are in {len(files)} files without {_INDEX}: {names[:_MOST_LISTED]}",
            hint=SAVE_AGAIN,
        )
    return files


def _shards(folder: Path) -> list[Path]:
    told = _parsed(folder / _INDEX).get("weight_map")
    if not isinstance(told, dict) or not told or not all(isinstance(name, str) for name in told.values()):
        raise InvalidModel(f"{_INDEX} has no `weight_map`", hint=SAVE_AGAIN)
    names = sorted(set(told.values()))
    for name in names:
        if "/" in name or not name.endswith(".safetensors"):
            raise InvalidModel(
                f"{_INDEX} names {plain(name, 100)!r}, which is no file beside it", hint=SAVE_AGAIN
            )
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise InvalidModel(
            f"{len(missing)} of {len(names)} weight files that {_INDEX} names are missing: {missing[:_MOST_LISTED]}",
            hint="pack them all",
        )
    return [folder / name for name in names]


def _refuse_pickles(folder: Path) -> None:
    """Raises UnsupportedFormat where a model's weights are there, and not as safetensors."""
    if any(folder.glob("*.onnx")) or any((folder / "onnx").glob("*.onnx")):
        return  # exporters leave the configuration beside their ONNX
    pickles = sorted(file.name for file in folder.glob("pytorch_model*.bin"))
    if pickles:
        raise UnsupportedFormat(
            f"the model's weights are pickles, which are not opened: {pickles[:_MOST_LISTED]}",
            hint="save them as safetensors: `model.save_pretrained(folder, safe_serialization=True)`",
        )
    if (folder / "adapter_model.bin").is_file():
        raise _adapter()


def _adapter() -> UnsupportedFormat:
    return UnsupportedFormat(
        "the folder holds an adapter, not the model that it adapts",
        hint="merge it: `model.merge_and_unload().save_pretrained(folder)`",
    )


def _is_no_model(file: Path) -> bool:
    """Whether a file is one that lies beside weights, and holds none."""
    return file.name in _COMPANIONS or file.suffix in (".json", ".md", ".txt", ".py")


def _is_config(file: Path) -> bool:
    try:
        config = _parsed(file)
    except InvalidModel:
        return False
    return isinstance(config.get("model_type"), str) or isinstance(config.get("architectures"), list)


def _parsed(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            text = stream.read(_MOST_JSON_BYTES + 1)
        found = json.loads(text) if len(text) <= _MOST_JSON_BYTES else None
    except (ValueError, RecursionError) as error:
        raise InvalidModel(f"{path.name} is no JSON: {plain(str(error), 200)}", hint=SAVE_AGAIN) from error
    if not isinstance(found, dict):
        raise InvalidModel(f"{path.name} is no JSON object, or a very large one", hint=SAVE_AGAIN)
    return found


def _keys(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every key of a configuration and of those inside it, after the path that leads to it."""
    waiting: list[tuple[str, Any]] = [("", config)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict):
            for key, inner in value.items():
                yield f"{path}{key}", key
                waiting.append((f"{path}{key}.", inner))
        elif isinstance(value, list):
            waiting.extend((path, inner) for inner in value)
