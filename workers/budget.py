"""Whether an attempt's engine breaks its accuracy budget."""

from collections.abc import Mapping
from typing import Any

from app.errors import BudgetNotMet


def over_budget(result: Mapping[str, Any]) -> BudgetNotMet | None:
    """The error of an attempt whose engine breaks its accuracy budget; result and engine are kept beside it."""
    comparison = result["result"]["comparison"]
    if comparison["within_budget"] is not False:
        return None
    drop = comparison["accuracy_drop"]
    return BudgetNotMet(
        f"accuracy drops by {drop['value']:.4g} (95% interval {drop['low']:.4g} to {drop['high']:.4g}), "
        f"more than the allowed {comparison['max_drop']:.4g}",
        stage="verifying",
        param="budget.max_drop",
        hint="the engine and its report are kept: see what the report says of fidelity; exclude sensitive nodes, "
        "calibrate with more or other data, or choose a milder pass",
    )
