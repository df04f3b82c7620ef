"""The kernels in Triton, for GPUs from NVIDIA's Ampere (sm_80) on.

A module here holds the Triton functions of one kernel and the functions that launch them, on
tensors of any shape; `models.kernels` imports it only when `launch.takes` says so. Nothing is
tuned: every launch has one configuration, a function of shapes and types, so that a kernel is
compiled once, in about a second, and kept by Triton's cache.
"""
