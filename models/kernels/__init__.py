"""Sequence kernels for processors without the libraries' GPU kernels, in C++ and in PyTorch.

Every kernel has a plain float64 reference, and both paths are tested against it, forward and
backward.
"""
