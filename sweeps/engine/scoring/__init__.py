"""Benchmarks for one model, and fine-tuning on GLUE."""
