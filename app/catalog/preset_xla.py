"""What a job for XLA does that names no passes."""

from app.catalog.spec import PresetChoice, PresetContext


def xla_preset(context: PresetContext) -> PresetChoice:
    """The preset for XLA: nothing. It fuses what the program computes by itself, and has no fast 8-bit kernels on CPUs."""
    return PresetChoice([], ["Compiling alone: XLA fuses the program by itself, whatever passes do."])
