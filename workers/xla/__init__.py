"""XLA: exported programs as StableHLO that JAX lowers, serializes and runs, for the runtimes `xla-cpu` and `xla-tpu`."""
