"""The plumbing between HTTP and the services: problems, request ids, limits, paging, uploads, idempotency."""
