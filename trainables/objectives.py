"""Training objectives, chunked over tokens so that (tokens, vocabulary) never exists at once."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from trainables.corpus import IGNORED

CHUNK = 1024


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum over tokens of the cross-entropy of `hidden @ weight.T + bias`.

    The gradients are computed in the forward pass, chunk by chunk, while the logits of the chunk
    are at hand; the backward pass only scales them (the fused linear cross-entropy of Liger Kernel,
    arXiv 2410.10989).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,  # (tokens, dim)
        weight: torch.Tensor,  # (vocab, dim)
        bias: torch.Tensor | None,  # (vocab,)
        targets: torch.Tensor,  # (tokens,)
        chunk: int,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        total = hidden.new_zeros((), dtype=torch.float32)
        weight_c = weight.to(dtype)
        bias_c = None if bias is None else bias.to(dtype)
        d_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        d_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        d_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        for start in range(0, hidden.shape[0], chunk):
            rows = slice(start, start + chunk)
            hidden_c, target_c = hidden[rows].to(dtype), targets[rows]
            logits = F.linear(hidden_c, weight_c, bias_c).float()  # (chunk, vocab)
            log_probs = torch.log_softmax(logits, dim=-1)
            total += F.nll_loss(log_probs, target_c, ignore_index=IGNORED, reduction="sum")
            if d_hidden is None and d_weight is None:
                continue
            minus_one = torch.full_like(log_probs[:, :1], -1.0)
            d_logits = log_probs.exp_()
            d_logits.scatter_add_(1, target_c.clamp_min(0)[:, None], minus_one)
            d_logits = d_logits.masked_fill_((target_c == IGNORED)[:, None], 0.0).to(dtype)
            if d_hidden is not None:
                d_hidden[rows] = d_logits @ weight_c
            if d_weight is not None:
                d_weight += d_logits.T @ hidden_c
            if d_bias is not None:
                d_bias += d_logits.float().sum(0)
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        scaled = (g if g is None else g * grads[0].to(g.dtype) for g in ctx.saved_tensors)
        return *scaled, None, None, None


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    *,
    chunk: int = CHUNK,
) -> torch.Tensor:
    """Summed next-token cross-entropy in nats, without the (tokens, vocab) logits.

    Args:
        hidden: (tokens, dim), after the final norm.
        weight: (vocab, dim) of the output head.
        bias: (vocab,) or None.
        targets: (tokens,), `IGNORED` where there is nothing to predict.
        chunk: tokens whose logits exist at once.

    Returns:
        A float32 scalar; NaN or infinite logits give a NaN or infinite sum.
    """
    device_type = hidden.device.type
    dtype = (
        torch.get_autocast_dtype(device_type)
        if torch.is_autocast_enabled(device_type)
        else weight.dtype
    )
    with torch.autocast(device_type, enabled=False):
        return _LinearCrossEntropy.apply(hidden, weight, bias, targets, chunk, dtype)


class NextTokenObjective(nn.Module):
    """Next-token cross-entropy of a causal language model.

    A module of its own, so that `DistributedDataParallel` wraps the whole way from tokens to loss.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Summed cross-entropy in nats of `targets` given `inputs`, both (batch, time)."""
        hidden = self.model.base_model(input_ids=inputs, use_cache=False).last_hidden_state
        head = self.model.get_output_embeddings()
        return linear_cross_entropy(hidden.flatten(0, 1), head.weight, head.bias, targets.flatten())
