"""The `result` of a measured attempt, as `api.md` has it."""

from collections.abc import Mapping
from typing import Any

from workers.model_handle import ModelHandle
from workers.runtimes.base import Engine
from workers.runtimes.why import why


def shape_result(
    original: ModelHandle,
    baseline: Engine,
    engine: Engine,
    measured: Mapping[str, Any],
    warnings: list[str],
) -> dict[str, Any]:
    """The job's `result` as `api.md` has it, less the artifacts' ids."""
    comparison = {
        **measured["comparison"],
        "size_ratio": engine.size_bytes / original.size_bytes,
        "why": why(baseline.facts, engine.facts, measured["comparison"]),
    }
    return {
        "reference": measured["reference"] and {"size_bytes": original.size_bytes, **measured["reference"]},
        "baseline": {"size_bytes": original.size_bytes, **measured["baseline"]},
        "optimized": {"size_bytes": engine.size_bytes, **measured["optimized"]},
        "comparison": comparison,
        "verification": "verified",
        "warnings": [*warnings, *measured["warnings"]],
    }
