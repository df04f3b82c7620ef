"""Dense bf16 peaks of GPUs, to say how much of its hardware a training step uses."""

from __future__ import annotations

_A100, _H100 = 312e12, 989e12
_PEAKS = {
    "A100-SXM4-40GB": _A100,
    "A100-SXM4-80GB": _A100,
    "A100-PCIE-40GB": _A100,
    "A100 80GB PCIe": _A100,
    "H100 80GB HBM3": _H100,  # SXM5
    "H100 PCIe": 756e12,
    "H200": _H100,
    "L4": 121e12,
    "A10": 125e12,
    "GeForce RTX 3090": 71e12,
    "GeForce RTX 4090": 165e12,
}


def dense_bf16_peak(device_name: str) -> float | None:
    """FLOP/s of bf16 matrix products, summed in float32 and without sparsity, or None.

    By the exact name that `torch.cuda.get_device_name` gives, with or without "NVIDIA": an "H200
    NVL" is slower than an "H200", an "A10G" than an "A10", and a MIG slice is a part of its GPU.
    None for names that are not listed. A V100 is not, as it has no bf16.

    Sources, all by NVIDIA; where only the figure with 2:4 sparsity is given, half of it is taken:
    A100, 312: "NVIDIA A100 Tensor Core GPU" datasheet.
    H100 SXM, 1979 sparse, and PCIe, 1513 sparse: "NVIDIA H100 Tensor Core GPU" datasheet.
    H200 SXM, 1979 sparse: "NVIDIA H200 Tensor Core GPU" datasheet.
    L4, 242 sparse: "NVIDIA L4 Tensor Core GPU" datasheet.
    A10, 125: "NVIDIA A10 Tensor Core GPU" datasheet.
    RTX 3090, 71 with float32 sums: "NVIDIA Ampere GA102 GPU Architecture" whitepaper.
    RTX 4090, 165.2 with float32 sums: "NVIDIA Ada GPU Architecture" whitepaper.
    """
    return _PEAKS.get(device_name.removeprefix("NVIDIA "))
