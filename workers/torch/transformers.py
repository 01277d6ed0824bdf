"""A model of the transformers package: its class looked up, its weights loaded without a gap, wrapped to take tensors."""

import importlib
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from app.errors import InvalidModel, UnsupportedFormat
from app.text import first_line, plain
from workers.torch.model import TorchModel, dtype_name, example_inputs
from workers.torch.opened import OpenedTorch
from workers.torch.weights import read_safetensors, unfit

# the Auto classes' mappings that are taken, and what their models take
_TASKS = {
    "feature-extraction": "MODEL_MAPPING_NAMES",
    "text-encoding": "MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES",
    "text-classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "token-classification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "question-answering": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
    "fill-mask": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "text-generation": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "image-classification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "semantic-segmentation": "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES",
    "object-detection": "MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES",
    "depth-estimation": "MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES",
}
_OTHERWISE = "export it to ONNX or as `.pt2`, with tensors as its inputs and outputs"
_SAVE_AGAIN = "save it again with a current transformers: `model.save_pretrained(folder)`"
# keys that choose how weights are found or computed, which is chosen here
_OURS = frozenset(
    [
        "_attn_implementation", "attn_implementation", "_experts_implementation", "experts_implementation", "_name_or_path",
        "name_or_path", "dtype", "torch_dtype", "transformers_weights", "fusion_config", "kernel_config", "use_kernels",
        "distributed_config",
    ]
)  # fmt: skip
# heads of another task that published checkpoints carry along
_SPARE = ("pooler.", "seq_relationship.")
_SIZES = (
    {"batch": 2, "sequence": 12},
    {"batch": 3, "sequence": 20},
)  # of the runs that outputs are read from
_OTHER_SIZES = (96, 160)  # of images whose size is free


def transformers_library() -> Any:
    """The package, which is told to call nobody and to keep silent."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        os.environ[name] = "1"
    return importlib.import_module("transformers")


def opened(
    config: Mapping[str, Any], files: Sequence[Path], declared: Mapping[str, Any], facts: Mapping[str, Any]
) -> OpenedTorch:
    """The model of a configuration and its weights, with its signature.

    Free dimensions are called `batch` and `sequence`; those that `declared` says numbers for are fixed.

    Raises:
        UnsupportedFormat: its class is not one of those that take text or images, or weights are quantized.
        InvalidModel: weights are missing, unfit or damaged; the configuration is wrong.
    """
    library = transformers_library()
    task, cls = _class(library, config)
    weights = read_safetensors(files)
    model, spare = _load(library, cls, config, weights)
    inputs = _fixed(_inputs(model, task), declared)
    network = _with_outputs(model, inputs)
    limit = _longest(model)
    return OpenedTorch(
        network,
        {
            "producer": f"transformers {plain(str(config.get('transformers_version', 'of an unknown version')), 50)}",
            "architecture": cls.__name__,
            "model_type": config["model_type"],
            "task": task,
            "parameters": sum(value.numel() for value in model.parameters()),
            "dtypes": sorted({dtype_name(value.dtype) for value in weights.values()}),
            "limits": {"sequence": limit} if limit and "input_ids" in [one["name"] for one in inputs] else {},
            "warnings": spare,
            **facts,
        },
    )


class Positional(torch.nn.Module):
    """A model that takes tensors by position and gives those of its outputs that are tensors, as a tuple."""

    def __init__(self, model: torch.nn.Module, inputs: Sequence[str], outputs: Sequence[str]):
        super().__init__()
        self.model = model
        self._inputs = tuple(inputs)
        self._outputs = tuple(outputs)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.model(**dict(zip(self._inputs, tensors, strict=True)), return_dict=True)
        return tuple(found[name] for name in self._outputs)


def _class(library: Any, config: Mapping[str, Any]) -> tuple[str, Any]:
    """(task, class). Raises UnsupportedFormat or InvalidModel where the package has none that is taken."""
    kind = config.get("model_type")
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    known = importlib.import_module("transformers.models.auto.configuration_auto").CONFIG_MAPPING_NAMES
    if not isinstance(kind, str) or kind not in known:
        raise InvalidModel(
            f"the transformers package {library.__version__} has no model type {plain(str(kind), 100)!r}",
            param="model_type",
            hint=_OTHERWISE,
        )
    named = config.get("architectures")
    base = "".join(_names(auto, "feature-extraction", kind)[:1])
    wanted = str(named[0]) if isinstance(named, list) and named else base
    for task in _TASKS:
        if wanted in _names(auto, task, kind):
            return task, getattr(library, wanted)
    taken = sorted({one for task in _TASKS for one in _names(auto, task, kind)})
    raise UnsupportedFormat(
        f"the class {plain(wanted, 100)!r} of the model type {kind!r} is not one that is opened; those are: "
        f"{', '.join(taken) or 'none'}",
        param="architectures",
        hint=_OTHERWISE,
    )


def _names(auto: Any, task: str, kind: str) -> tuple[str, ...]:
    """The classes that do a task for a model type."""
    found = getattr(auto, _TASKS[task]).get(kind, ())
    return (found,) if isinstance(found, str) else tuple(found)


def _load(
    library: Any, cls: Any, config: Mapping[str, Any], weights: Mapping[str, torch.Tensor]
) -> tuple[Any, list[str]]:
    """The model in fp32 and eval mode, and a warning of weights that it has no place for.

    Configuration and weights are given as objects: the package looks for no file, no adapter and no other weights itself.

    Raises:
        InvalidModel: a weight is missing, has no place or another shape; the class refuses the configuration.
    """
    given = {key: value for key, value in config.items() if key not in _OURS}
    told = {"output_hidden_states": False, "output_attentions": False, "use_cache": False}
    try:
        with _silent(library):
            settings = library.CONFIG_MAPPING[config["model_type"]].from_dict(given | told)
            model, report = cls.from_pretrained(
                None,
                config=settings,
                state_dict=dict(weights),
                dtype=torch.float32,
                attn_implementation="eager",
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # they are listed, and refused here
                output_loading_info=True,
            )
    except MemoryError:
        raise
    except Exception as error:  # what a configuration makes a class raise may be anything
        raise InvalidModel(
            f"{cls.__name__} of transformers {library.__version__} cannot be made of this configuration: {_sentence(error)}",
            param="config.json",
            hint=_SAVE_AGAIN,
        ) from error
    spare = sorted(key for key in report["unexpected_keys"] if any(part in key for part in _SPARE))
    if found := unfit(
        sorted(report["missing_keys"]),
        sorted(set(report["unexpected_keys"]) - set(spare)),
        [(name, tuple(held), tuple(wanted)) for name, held, wanted in sorted(report["mismatched_keys"])],
    ):
        raise InvalidModel(
            f"the weights are not those of {cls.__name__} with this configuration: {found.summary}",
            param="architectures",
            errors=found.errors,
            hint=f"save model and configuration together, with the class that was trained: {_SAVE_AGAIN}",
        )
    if report["error_msgs"]:
        raise InvalidModel(
            f"weights cannot be loaded: {plain(str(report['error_msgs'][0]), 400)}", hint=_SAVE_AGAIN
        )
    listed = f"{cls.__name__} has no place for these weights: {', '.join(spare[:10])}"
    return model.eval(), [plain(listed, 500)] if spare else []


@contextmanager
def _silent(library: Any) -> Iterator[None]:
    """No report of weights, which is given as an error, and no bars."""
    logging = library.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _inputs(model: Any, task: str) -> tuple[dict[str, Any], ...]:
    """What a model takes: token numbers with a mask, or images.

    Raises:
        UnsupportedFormat: it takes something else.
    """
    config = model.config
    if model.main_input_name == "input_ids" and not config.is_encoder_decoder:
        names = ["input_ids", "attention_mask"]
        if (getattr(config, "type_vocab_size", 0) or 0) > 1:
            names.append("token_type_ids")
        taken = inspect.signature(model.forward).parameters
        return tuple(
            {"name": name, "dtype": "int64", "shape": ["batch", "sequence"]}
            for name in names
            if name in taken
        )
    if model.main_input_name == "pixel_values" and not config.is_encoder_decoder:
        shape = ["batch", getattr(config, "num_channels", 3), *_image_size(config)]
        return ({"name": "pixel_values", "dtype": "float32", "shape": shape},)
    raise UnsupportedFormat(
        f"a model of the type {config.model_type!r} ({type(model).__name__}) takes {model.main_input_name!r}"
        + (" and a decoder's tokens" if config.is_encoder_decoder else "")
        + "; models of one text or one image are opened",
        param="model_type",
        hint=_OTHERWISE,
    )


def _image_size(config: Any) -> list[int | str]:
    size = getattr(config, "image_size", None)
    if isinstance(size, int):
        return [size, size]
    if isinstance(size, list | tuple) and len(size) == 2:
        return [int(one) for one in size]
    return ["height", "width"]


def _fixed(inputs: Sequence[Mapping[str, Any]], declared: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """The inputs with numbers where the uploader declared numbers for free dimensions."""
    told = {entry["name"]: entry["shape"] for entry in (declared.get("signature") or {}).get("inputs", [])}
    fixed = []
    for entry in inputs:
        shape = list(entry["shape"])
        if len(told.get(entry["name"], ())) == len(shape):
            pairs = zip(shape, told[entry["name"]], strict=True)
            shape = [
                other if isinstance(own, str) and isinstance(other, int) else own for own, other in pairs
            ]
        fixed.append({**entry, "shape": shape})
    return tuple(fixed)


def _with_outputs(model: Any, inputs: tuple[dict[str, Any], ...]) -> TorchModel:
    """The wrapped model with its outputs: those that are tensors, and the dimensions that follow the inputs' free ones.

    Raises:
        InvalidModel: it does not run on what it takes.
    """
    names = [entry["name"] for entry in inputs]
    runs = []
    for dims, size in zip(_SIZES, _OTHER_SIZES, strict=True):
        dims = {**dims, "height": size, "width": size + 32}
        args = example_inputs(inputs, dims=dims)
        try:
            with torch.inference_mode():
                found = model(**dict(zip(names, args, strict=True)), return_dict=True)
        except Exception as error:  # a model may raise anything
            raise InvalidModel(
                f"a model of the type {model.config.model_type!r} does not run on {', '.join(names)} alone: {_sentence(error)}",
                hint=_OTHERWISE,
            ) from error
        runs.append((dims, {name: one for name, one in found.items() if isinstance(one, torch.Tensor)}))
    (first_dims, first), (second_dims, second) = runs
    outputs = tuple(
        {
            "name": name,
            "dtype": dtype_name(one.dtype),
            "shape": [
                size if size == other else _named(first_dims, second_dims, size, other)
                for size, other in zip(one.shape, second[name].shape, strict=True)
            ],
        }
        for name, one in first.items()
    )
    module = Positional(model, names, list(first)).eval()
    return TorchModel(module, tuple(map(dict, inputs)), outputs)


def _named(first: Mapping[str, int], second: Mapping[str, int], size: int, other: int) -> str | None:
    return next((name for name in first if (first[name], second[name]) == (size, other)), None)


def _longest(model: Any) -> int | None:
    """The most tokens that a model has positions for; a table with a padding row begins to count behind it."""
    for name, table in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(table, torch.nn.Embedding):
            padding = table.padding_idx
            return int(table.num_embeddings - (0 if padding is None else padding + 1))
    told = getattr(model.config, "max_position_embeddings", None)
    return told if isinstance(told, int) and told > 0 else None


def _sentence(error: BaseException) -> str:
    line = first_line(str(error))
    return plain(f"{type(error).__name__}: {line}" if line else type(error).__name__, 400)
