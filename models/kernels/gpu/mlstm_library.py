"""The mLSTM on the kernels of mlstm_kernels (Beck et al. 2025, arXiv 2503.14376), to compare with.

Its chunkwise kernel `xl_chunk`; the `custbw` variants drop the gradient of the normaliser.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 128  # steps
SHORT = (16, 32, 64)  # lengths of less than a chunk that it takes


def takes(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the library's kernels take vectors (batch, time, heads, dim) of these types."""
    time = q.shape[1]
    kinds = {x.dtype for x in (q, k, v)}
    return (time in SHORT or (time > 0 and time % CHUNK == 0)) and torch.float64 not in kinds


def mlstm(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    igate: Tensor,
    fgate: Tensor,
    initial_state: tuple[Tensor, Tensor, Tensor] | None,
    return_state: bool,
    eps: float,
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor] | None]:
    """Compute `models.kernels.mlstm.mlstm`; the kernels do so in the vectors' type."""
    from mlstm_kernels.torch.chunkwise.triton_xl_chunk import mlstm_chunkwise__xl_chunk

    state = {}
    if initial_state is not None:
        memory, normalizer, m = initial_state
        state = {"c_initial": memory, "n_initial": normalizer, "m_initial": m[..., None]}
    heads_first = (x.transpose(1, 2) for x in (q, k, v, igate.float(), fgate.float()))
    out = mlstm_chunkwise__xl_chunk(
        *heads_first, **state, return_last_states=return_state, eps=eps, chunk_size=CHUNK
    )
    h, end = out if return_state else (out, None)
    h = h.transpose(1, 2).float()
    if end is None:
        return h, None
    memory, normalizer, m = (x.detach().float() for x in end)
    return h, (memory, normalizer, m.view(m.shape[:2]))
