"""What the tests of all kernels share."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# One step, odd, below, at and above the kernels' chunks of 4 to 64 steps.
LENGTHS = [1, 3, 8, 63, 64, 65, 130]

Kernel = Callable[..., Tensor]


def log_gates(kind: str, shape: tuple[int, ...], share: float = 0.02) -> Tensor:
    """Log forget gates from harmless to extreme; `share` of them is "rare" or "reset"."""
    wide = F.logsigmoid(3 * torch.randn(shape))
    if kind == "open":
        return -1e-4 * torch.rand(shape)
    if kind == "closed":
        return torch.full(shape, -20.0)
    if kind == "rare":
        return torch.where(torch.rand(shape) < share, -100.0, wide)
    if kind == "reset":
        return torch.where(torch.rand(shape) < share, -torch.inf, wide)
    return wide


def assert_matches(
    kernel: Kernel, reference: Kernel, inputs: tuple[Tensor, ...], tolerance: float = 2e-6
) -> None:
    """Outputs and gradients agree, relative to the largest entry of each (at least 1)."""
    fast = [x.detach().clone().requires_grad_() for x in inputs]
    slow = [x.detach().double().requires_grad_() for x in inputs]
    output, expected = kernel(*fast), reference(*slow)
    weight = torch.randn(expected.shape, dtype=torch.float64)
    (output.double() * weight).sum().backward()
    (expected * weight).sum().backward()
    results = [output, *(x.grad for x in fast)]
    expectations = [expected, *(x.grad for x in slow)]
    for index, (got, want) in enumerate(zip(results, expectations, strict=True)):
        assert got is not None
        assert want is not None
        error = (got.double() - want).abs().max() / want.abs().max().clamp(min=1)
        assert error < tolerance, f"tensor {index} (0 is the output): relative error {error:.1e}"


def assert_passes_nan_on(kernel: Kernel, inputs: tuple[Tensor, ...]) -> None:
    """One NaN in any input makes the output NaN somewhere: a diverged run cannot hide."""
    assert kernel(*inputs).isfinite().all()
    for index, tensor in enumerate(inputs):
        poisoned = tensor.clone()
        poisoned.view(-1)[0] = torch.nan
        changed = [poisoned if i == index else x for i, x in enumerate(inputs)]
        assert kernel(*changed).isnan().any(), f"input {index}"
