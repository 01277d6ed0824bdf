"""A metric held against a model's outputs and a dataset's labels, wherever a request names one. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from app.catalog.metrics import METRICS
from app.catalog.spec import InputRole, MetricSpec, ModelFacts, PassSpec
from app.errors import InvalidParams, SignatureMismatch

DEFAULT_METRIC = "top1"  # of a pass that is given a bound and no metric


def metric_called(name: str, param: str) -> MetricSpec:
    """The metric of that name; `param` is its place in the request.

    Raises:
        InvalidParams: there is none.
    """
    if name not in METRICS:
        raise InvalidParams(
            f"there is no metric called {name!r}", param=param, hint=f"there are {', '.join(sorted(METRICS))}"
        )
    return METRICS[name]


def check_droppable(metric: MetricSpec, param: str, bound: str) -> None:
    """Raises InvalidParams where nothing can drop, as the metric compares the two models."""
    if metric.paired:
        raise InvalidParams(
            f"{metric.name} compares the two models, so nothing can drop: no {bound} can be held against it",
            param=param,
            hint=f"use one of {', '.join(sorted(name for name, one in METRICS.items() if not one.paired))}",
        )


def check_labels(
    metric: MetricSpec, dataset: str, labels: Mapping[str, Any] | None, param: str, *, droppable: bool = False
) -> None:
    """Raises InvalidParams where the metric needs labels and the dataset of that id has none.

    `droppable`: whether only metrics that can drop would do in its place.
    """
    if metric.needs_labels and labels is None:
        others = sorted(
            name
            for name, other in METRICS.items()
            if not other.needs_labels and not (droppable and other.paired)
        )
        hint = "upload data with an array called `labels`"
        raise InvalidParams(
            f"the metric {metric.name} needs labels, and the dataset {dataset} has none",
            param=param,
            hint=f"{hint}, or use one of {', '.join(others)}" if others else hint,
        )


def output_read(given: str | None, outputs: Sequence[str], param: str) -> str:
    """The output that a metric reads: the one that is given, or the only one.

    Raises:
        InvalidParams: none is given and there are several.
        SignatureMismatch: there is none of that name.
    """
    if given is None and len(outputs) == 1:
        return outputs[0]
    if given is None:
        raise InvalidParams(
            f"the model has {len(outputs)} outputs: say which one the metric reads",
            param=param,
            hint=f"they are {', '.join(outputs)}",
        )
    if given not in outputs:
        raise SignatureMismatch(
            f"the model has no output called {given!r}",
            param=param,
            hint=f"its outputs are {', '.join(outputs)}",
        )
    return given


def with_bound(
    spec: PassSpec,
    params: Mapping[str, Any],
    labels: Mapping[str, Mapping[str, Any] | None],
    inputs: Mapping[InputRole, str],
    model: ModelFacts,
    path: str,
) -> dict[str, Any]:
    """The parameters of a pass with what its bound is held on filled in, where one is given; `labels` are datasets' by id.

    Raises:
        InvalidParams, SignatureMismatch: metric, output and validation data do not fit each other or the model.
    """
    if spec.bound is None or params[spec.bound] is None:
        return dict(params)
    metric = metric_called(params["metric"] or DEFAULT_METRIC, f"{path}.params.metric")
    check_droppable(metric, f"{path}.params.metric", spec.bound)
    given = inputs["validation"]
    check_labels(metric, given, labels[given], f"{path}.inputs.validation", droppable=True)
    outputs = [output["name"] for output in model.outputs]
    output = output_read(params["output"], outputs, f"{path}.params.output")
    return {**params, "metric": metric.name, "output": output}
