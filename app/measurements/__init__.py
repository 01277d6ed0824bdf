"""Numbers with their unit, samples, spread and machine."""
