"""Layer norm without a bias on a residual stream."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.kernels import paths
from models.kernels.gpu import launch
from models.kernels.shapes import expect


def stream_layer_norm(
    x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """x (..., dim), weight (dim,) -> the norm of x, of `dtype`, and x.

    Go on with the x that is returned: in Triton, the backward of the norm adds the gradient that
    comes through it as it writes that of x.
    """
    expect("weight", weight, x.shape[-1])
    if not (dtype in launch.ELEMENT_TYPES and launch.takes("layer_norm", x, weight)):
        paths.note("layer_norm", "torch")
        # On a CPU with AVX-512 PyTorch sums the weight's gradient in bf16 where x is.
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return F.layer_norm(wide, x.shape[-1:], weight.to(wide.dtype), None, eps).to(dtype), x
    with torch.autocast(x.device.type, enabled=False):
        y, passed = _StreamLayerNorm.apply(x, weight, eps, dtype)
    return y, passed


class _StreamLayerNorm(torch.autograd.Function):
    """LayerNorm in Triton that hands its input on; keeps the input and two numbers per row."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        from models.kernels.gpu import layer_norm as gpu

        flat, weight = x.reshape(-1, x.shape[-1]).contiguous(), weight.contiguous()
        y, mean, scale = gpu.forward(flat, weight, eps, dtype)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(flat, weight, mean, scale)
        return y.view(x.shape), x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, dpassed: Tensor | None) -> Any:
        from models.kernels.gpu import layer_norm as gpu

        x, weight, mean, scale = ctx.saved_tensors
        if dy is None:
            return dpassed, None, None, None
        more = None if dpassed is None else dpassed.reshape(x.shape).contiguous()
        dy_rows = dy.reshape(x.shape).contiguous()
        dx, dweight = gpu.backward(x, weight, mean, scale, dy_rows, more)
        return dx.view(dy.shape), dweight.to(weight.dtype), None, None
