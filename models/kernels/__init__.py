"""Sequence kernels in plain PyTorch, for processors without the libraries' GPU kernels.

Every kernel stands beside a naive float64 reference of the same recurrence, and is tested
against it forward and backward.
"""
