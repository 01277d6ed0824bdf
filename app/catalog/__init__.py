"""What Burnish can do, as data: passes, runtimes, metrics, recipes. Needs no worker and no torch."""
