"""One file a runtime, named after it: what its own profiler says, as rows."""

from workers.profiling.recorded import Profiler
from workers.registry import Registry

registry: Registry[Profiler] = Registry(__name__, "profiler")
profiles = registry.implements
