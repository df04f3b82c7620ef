"""The recurrence of HGRN2 on the kernels of flash-linear-attention (fla; Yang et al. 2024, arXiv
2312.06635), to compare with.

Called as fla's own HGRN2 layer calls them. Before the first steps they try their configurations,
which takes minutes.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

STEP_BY_STEP = 64  # steps, up to which fla's layer takes the kernel without chunks
MOST_KEYS = 256  # of a head, in chunks


def takes(q: Tensor, v: Tensor) -> bool:
    """Whether fla's kernels take vectors (B, T, H, dim) of these types and widths."""
    fits = q.shape[3] <= MOST_KEYS or q.shape[1] <= STEP_BY_STEP
    return fits and q.numel() > 0 and torch.float64 not in {q.dtype, v.dtype}


def hgrn2_attention(
    q: Tensor, f: Tensor, v: Tensor, lower_bound: Tensor | None, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Compute `models.kernels.gated_linear_attention.hgrn2_attention`; a bound must be above 0."""
    gate = F.logsigmoid(f.float())
    if lower_bound is not None:
        bound = lower_bound.float().view(q.shape[2:])
        gate = torch.logaddexp(bound.log(), torch.log1p(-bound) + gate)
    key = 1 - gate.exp()
    kernels = _kernels()
    options = {"initial_state": initial_state, "output_final_state": True}
    if q.shape[1] <= STEP_BY_STEP:
        run = functools.partial(kernels.fused_recurrent_gla, gk=gate)
    else:
        run = functools.partial(kernels.chunk_gla, g=gate)
    o, state = run(F.silu(q).to(v.dtype), key.to(v.dtype), v, **options)
    return o.to(v.dtype), state.detach()


@functools.cache
def _kernels() -> Any:
    """`fla.ops.gla`, without fla's layers and models.

    `import fla` brings the two along where they are installed, and models register themselves: its
    own HGRN2 in the place of ours, its Mamba in that of transformers'. A None in `sys.modules`
    tells Python, and so fla, that there is no such module.
    """
    rest = [name for name in ("fla.layers", "fla.models") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(rest))  # type: ignore[arg-type]
    try:
        return importlib.import_module("fla.ops.gla")
    finally:
        for name in rest:
            del sys.modules[name]
