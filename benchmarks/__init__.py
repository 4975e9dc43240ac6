"""Programs that run cdvqa and its baselines in turn and write docs/benchmarks/; never part of the test suite."""
