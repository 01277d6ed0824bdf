"""How an engine serves: what a job of kind `benchmark` leaves."""
