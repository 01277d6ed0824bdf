"""Benchmarks: how an engine serves in MLPerf's scenarios, over batches, threads and streams."""
