"""Reports: what a job found, for programs."""
