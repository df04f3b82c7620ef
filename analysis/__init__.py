"""What the results mean: benchmarks, statistics, plots."""
