"""What a recipe's passes read, held against the model: datasets, and networks to learn from. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

from app.catalog.formats import way
from app.catalog.spec import InputRole, ModelFacts, Need, PassSpec, need_text
from app.errors import InvalidParams, SignatureMismatch

EXACT_FLOATS = {  # what holds every value of an integer type, as numpy counts it
    "int8": ("float16", "float32", "float64"),
    "int16": ("float32", "float64"),
    "int32": ("float64",),
    "int64": ("float64",),
}


@dataclass(frozen=True)
class DatasetFacts:
    """What validation knows of a dataset: `inputs` is {name: {dtype, shape}} without the sample axis."""

    id: str
    digest: str
    samples: int
    inputs: Mapping[str, Mapping[str, Any]]
    labels: Mapping[str, Any] | None


class Options(Protocol):
    """The part of a job's `options` that matters here."""

    @property
    def allow_synthetic(self) -> bool: ...


def check_inputs(
    spec: PassSpec,
    inputs: Mapping[InputRole, str],
    needs: Mapping[InputRole, Need],
    model: ModelFacts,
    datasets: Mapping[str, DatasetFacts],
    teachers: Mapping[str, ModelFacts],
    options: Options,
    path: str,
) -> None:
    """Hold what a step reads against what its pass needs.

    Raises:
        InvalidParams: something is missing, or the pass reads no such thing.
        SignatureMismatch: data or a teacher do not fit the model.
    """
    for role, id_ in inputs.items():
        if role not in needs:
            takes = f"it reads {listed(needs)}" if needs else "it reads no data: remove `inputs`"
            if role in spec.inputs:
                takes = f"{role} data is {need_text(spec.inputs[role])}"
            raise InvalidParams(
                f"{spec.name} reads no {role} data", param=f"{path}.inputs.{role}", hint=takes
            )
        if role == "teacher":
            check_teacher(id_, teachers, model, f"{path}.inputs.{role}")
        else:
            check_dataset(id_, datasets, model.inputs, f"{path}.inputs.{role}")
    for needed, need in needs.items():
        if needed in inputs or need == "optional":
            continue
        synthetic = need == "required-or-synthetic"
        if synthetic and options.allow_synthetic:
            continue
        hint = f"name a dataset: {{'inputs': {{'{needed}': 'dat_…'}}}}"
        if synthetic:
            hint += (
                ", or set options.allow_synthetic to use generated random data (accuracy may suffer badly)"
            )
        raise InvalidParams(f"{spec.name} needs {needed} data", param=f"{path}.inputs.{needed}", hint=hint)


def check_dataset(
    id_: str, datasets: Mapping[str, DatasetFacts], inputs: Iterable[Mapping[str, Any]], path: str
) -> None:
    """Hold a dataset against a model's inputs.

    Raises:
        InvalidParams: there is no such dataset.
        SignatureMismatch: it does not fit.
    """
    if id_ not in datasets:
        raise InvalidParams(f"there is no dataset {id_!r}", param=path, hint="upload it, or correct the id")
    dataset = datasets[id_]
    for wanted in inputs:
        name = wanted["name"]
        if name not in dataset.inputs:
            raise SignatureMismatch(
                f"the model's input {name!r} is not in the dataset {id_}, which holds {listed(dataset.inputs)}",
                param=path,
                hint="call each array like the model's input that it feeds",
            )
        problem = _misfit(wanted, dataset.inputs[name])
        if problem:
            raise SignatureMismatch(
                f"the array {name!r} of dataset {id_} {problem}",
                param=path,
                hint=_remedy(wanted, dataset.inputs[name]),
            )


def check_teacher(id_: str, teachers: Mapping[str, ModelFacts], model: ModelFacts, path: str) -> None:
    """Hold a teacher against the model that learns from it: it is run on the same samples.

    Raises:
        InvalidParams: there is no such model, or PyTorch cannot run it.
        SignatureMismatch: it takes other inputs.
    """
    if id_ not in teachers:
        raise InvalidParams(f"there is no model or artifact {id_!r}", param=path, hint="correct the id")
    teacher = teachers[id_]
    try:
        way(teacher.format, frozenset({"torch-export"}))
    except LookupError:
        raise InvalidParams(
            f"the teacher {id_} is a {teacher.format} model, which does not become a PyTorch program",
            param=path,
            hint="upload it as ONNX or as `.pt2`",
        ) from None
    taken = {entry["name"]: entry for entry in model.inputs}
    for wanted in teacher.inputs:
        name = wanted["name"]
        if name not in taken:
            raise SignatureMismatch(
                f"the teacher {id_} has an input {name!r}, which the model does not have: it takes {listed(taken)}",
                param=path,
                hint="both are run on the same samples: rename the teacher's inputs like the model's",
            )
        if taken[name]["dtype"] != wanted["dtype"]:
            raise SignatureMismatch(
                f"the teacher {id_} takes {wanted['dtype']} as {name!r}, the model {taken[name]['dtype']}",
                param=path,
            )


def _misfit(wanted: Mapping[str, Any], given: Mapping[str, Any]) -> str | None:
    """Why an array does not fit a model's input, or None. The array's shape comes without its sample axis.

    An input of the array's full rank takes a slice along the samples, one of a rank less takes a single sample.
    """
    if not castable(given["dtype"], wanted["dtype"]):
        return f"holds {given['dtype']}, the model takes {wanted['dtype']}"
    shape, sample = list(wanted["shape"]), list(given["shape"])
    batched = len(shape) == len(sample) + 1
    if not batched and len(shape) != len(sample):
        return f"has samples of shape {_shape(sample)}, the model takes {_shape(shape)}: the ranks differ"
    expected = shape[1:] if batched else shape
    for want, have in zip(expected, sample, strict=True):
        if isinstance(want, int) and want != have:
            return f"has samples of shape {_shape(sample)}, the model takes {_shape(shape)}"
    return None


def _remedy(wanted: Mapping[str, Any], given: Mapping[str, Any]) -> str | None:
    """What most likely went wrong with an array that does not fit, where its shape tells."""
    shape, sample = list(wanted["shape"]), list(given["shape"])
    if not castable(given["dtype"], wanted["dtype"]):
        return f"save it with `.astype({wanted['dtype']!r})`, or upload a model that takes {given['dtype']}"

    def fits(moved: list[Any]) -> bool:
        return _misfit(wanted, {**given, "shape": moved}) is None

    if len(sample) == 3 and fits([sample[2], *sample[:2]]):
        return "its channels are last and the model takes them first: save `array.transpose(0, 3, 1, 2)`"
    if len(sample) == 3 and fits([*sample[1:], sample[0]]):
        return "its channels are first and the model takes them last: save `array.transpose(0, 2, 3, 1)`"
    if fits([1, *sample]):
        return "the model takes a channel: save `array[:, None]`"
    if fits([*sample, 1]):
        return "the model takes a channel at the end: save `array[..., None]`"
    if fits([prod(sample)]):
        return "the model takes flat samples: save `array.reshape(len(array), -1)`"
    if len(sample) + 1 == len(shape):
        return "save samples of the model's sizes, the samples on the first axis"
    return None


def castable(given: str, wanted: str) -> bool:
    """Whether workers feed an array of one dtype to an input of another: floats to floats, integers to integers, and
    what loses nothing."""
    if given == wanted:
        return True
    if wanted == "string":
        return given.startswith(("str", "object"))
    if given.startswith("float"):
        return wanted.startswith("float")
    if given.startswith(("int", "uint")) and wanted.startswith("float"):
        return wanted in EXACT_FLOATS.get(given.removeprefix("u"), ())
    return given.startswith(("int", "uint", "bool")) and wanted.startswith(
        ("int", "uint", "float") if given == "bool" else ("int", "uint")
    )


def listed(names: Iterable[str]) -> str:
    """Names in order, for a sentence."""
    return ", ".join(sorted(names))


def _shape(shape: Iterable[Any]) -> str:
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in shape) + "]"
