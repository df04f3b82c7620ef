"""The generated language: its grammar, stories and knowledge, and the benchmarks that test them."""
