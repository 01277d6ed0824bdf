"""Burnish, the service: takes models and jobs over HTTP, keeps the record, hands the work to `workers`."""

__version__ = "0.1.0"
