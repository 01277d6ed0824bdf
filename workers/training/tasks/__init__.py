"""One file a task: `build(job, device) -> Task`."""
