"""The parts of a report: one file a part, each a function from the report's document to a `Section`, or None where it has nothing to say."""

from collections.abc import Callable

from app.jobs.looking import JobKind
from app.reports.schemas import Report
from workers.reporting.blocks import Section
from workers.reporting.sections.accuracy import accuracy
from workers.reporting.sections.advice import advice
from workers.reporting.sections.batches import batches
from workers.reporting.sections.cold_start import cold_start
from workers.reporting.sections.comparison import comparison
from workers.reporting.sections.conditions import conditions
from workers.reporting.sections.latency import latency
from workers.reporting.sections.layers import layers
from workers.reporting.sections.memory import memory
from workers.reporting.sections.recipe import recipe
from workers.reporting.sections.repeat import repeat
from workers.reporting.sections.roofline import roofline
from workers.reporting.sections.scenarios import scenarios
from workers.reporting.sections.server import server
from workers.reporting.sections.speed import speed
from workers.reporting.sections.steps import steps
from workers.reporting.sections.structure import structure
from workers.reporting.sections.training import training
from workers.reporting.sections.why import why

Part = Callable[[Report], Section | None]

PROFILED: tuple[Part, ...] = (training, layers, roofline, advice, memory)
MADE: tuple[Part, ...] = (recipe, steps, repeat, conditions)
PARTS: dict[JobKind, tuple[Part, ...]] = {
    "optimize": (comparison, speed, why, accuracy, latency, structure, *PROFILED, *MADE),
    "profile": (*PROFILED, latency, *MADE),
    "benchmark": (scenarios, batches, server, cold_start, *MADE),
}


def sections(report: Report) -> list[Section]:
    """The parts that have something to say, in order."""
    return [section for part in PARTS[report.kind] if (section := part(report)) is not None]
