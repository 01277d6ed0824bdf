"""What every runtime for NVIDIA GPUs is asked."""

from typing import Annotated

from pydantic import Field

from app.catalog.spec import Params


class GpuParams(Params):
    """Which GPUs a job may run on."""

    compute_capabilities: tuple[Annotated[int, Field(ge=50, le=999)], ...] = Field(
        default=(),
        max_length=8,
        description=(
            "GPUs that the job may run on, by compute capability: 89 is 8.9. It goes to a worker that has one of them. Absent: "
            "any GPU. Short form of a target: the runtime's name with `:sm89`, or `:sm80+sm90` for either."
        ),
    )
