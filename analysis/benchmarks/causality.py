"""Whether a model predicts each token from those before it alone.

`AutoModelForCausalLM` also opens BERT and its kin, in which every token sees all others, itself
too: their "log-probabilities" of a text are near 0, and any text wins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor
from transformers import PreTrainedModel

_MOST_TOKENS = 32
_OTHERS = 3
# Part of the logits' range by which earlier log-probabilities may move. Rounding moves those of
# float32 by 1e-5 at most (recurrences in chunks, experts), a later token by 3e-4 at least in an
# untrained model, where it has the least to say. In 16 bits rounding moves them by more than that.
_TOLERANCE = 5e-5
_TOO_COARSE = (torch.float16, torch.bfloat16)


def check_causal(model: PreTrainedModel, ids: Sequence[int], vocab_size: int) -> None:
    """Check that a text's last token changes no log-probability before it.

    A model of 16 bits computes in float32 meanwhile, in which alone a small movement is told from
    rounding: on its own device, or on the CPU if that has no memory for it. The caller has switched
    dropout, gradients and autocast off.

    Args:
        model: what `AutoModelForCausalLM` opens.
        ids: tokens of a text, two or more; the first ones are read.
        vocab_size: token ids that the model knows.

    Raises:
        ValueError: it changes one: the model is not causal.
    """
    try:
        with _in_float32(model):
            is_causal = _is_causal(model, ids[:_MOST_TOKENS], vocab_size)
    except torch.OutOfMemoryError:
        with _in_float32(model, torch.device("cpu")):
            is_causal = _is_causal(model, ids[:_MOST_TOKENS], vocab_size)
    if not is_causal:
        raise ValueError(
            f"the model ({type(model).__name__}) sees later tokens: changing "
            "the last token of a text changes the log-probabilities before it. Only a causal "
            "language model can be scored or learned from"
        )


@contextmanager
def _in_float32(model: PreTrainedModel, device: torch.device | None = None) -> Iterator[None]:
    """Lets a model of 16 bits compute in float32; its own numbers come back, untouched.

    Args:
        model: any; only what is of 16 bits becomes float32.
        device: to compute on, in place of the model's own.
    """
    everything = chain(model.parameters(), model.buffers())
    tensors = [each for each in everything if device or each.dtype in _TOO_COARSE]
    own = [tensor.data for tensor in tensors]
    try:
        for tensor in tensors:
            dtype = torch.float32 if tensor.dtype in _TOO_COARSE else tensor.dtype
            tensor.data = tensor.data.to(device or tensor.device, dtype)
        yield
    finally:
        for tensor, data in zip(tensors, own, strict=True):
            tensor.data = data


def _is_causal(model: PreTrainedModel, ids: Sequence[int], vocab_size: int) -> bool:
    """Whether no other last token that makes a difference makes one before it."""
    text = torch.tensor([ids], device=next(model.parameters()).device)
    logits = _logits(model, text)
    log_probs = logits.log_softmax(-1)
    finite = logits[logits.isfinite()]
    if not finite.numel():
        return True  # a broken model's scores are reported as such
    allowed = _TOLERANCE * float(finite.max() - finite.min())
    for number in range(1, _OTHERS + 1):
        other = text.clone()
        other[0, -1] = (text[0, -1] + number * vocab_size // (_OTHERS + 1)) % vocab_size
        moved = (_logits(model, other).log_softmax(-1) - log_probs).abs().nan_to_num(0.0, 0.0)
        if float(moved[:-1].max()) > allowed:
            return False
        if float(moved[-1].max()) > 0:  # the other token does make a difference
            break
    return True


def _logits(model: PreTrainedModel, text: Tensor) -> Tensor:
    """text (1, time) -> (time, vocabulary) in float32."""
    logits: Tensor = model(input_ids=text, use_cache=False).logits[0].float()
    return logits
