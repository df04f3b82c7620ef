"""Linear layer whose weight is a block-diagonal matrix."""

from __future__ import annotations

import torch
from torch import Tensor

# Blocks are grouped until their inputs are this wide: the zeros between them cost less than
# many products of tiny matrices.
DENSE_WIDTH = 64


def block_diagonal_linear(x: Tensor, weight: Tensor) -> Tensor:
    """x (..., blocks * in), weight (blocks, out, in) -> (..., blocks * out)."""
    blocks, height, width = weight.shape
    group = max(1, DENSE_WIDTH // width)
    while blocks % group:
        group -= 1
    # (groups, group, out, group, in): a group's blocks on the diagonal of its dense matrix
    diagonal = torch.eye(group, dtype=weight.dtype, device=weight.device)[:, None, :, None]
    dense = weight.view(-1, group, height, 1, width) * diagonal
    dense = dense.view(-1, group * height, group * width)
    grouped = x.reshape(-1, len(dense), group * width).transpose(0, 1)
    out = torch.bmm(grouped, dense.mT)  # (groups, tokens, group * out)
    return out.transpose(0, 1).reshape(*x.shape[:-1], -1)
