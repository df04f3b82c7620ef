"""Whether a model predicts each token from those before it alone.

`AutoModelForCausalLM` also opens BERT and its kin, in which every token sees all others, itself
too: their "log-probabilities" of a text are near 0, and any text wins.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

_MOST_TOKENS = 32
_OTHERS = 3
# Part of the logits' range by which earlier log-probabilities may move. Rounding moves those of
# float32 by 1e-5 at most (recurrences in chunks, experts), a later token by 3e-4 at least in an
# untrained model, where it has the least to say.
_TOLERANCE = 5e-5


def check_causal(model: PreTrainedModel, ids: Sequence[int], vocab_size: int) -> None:
    """Check that a text's last token changes no log-probability before it.

    The caller has switched dropout, gradients and autocast off.

    Args:
        model: what `AutoModelForCausalLM` opens.
        ids: tokens of a text, two or more; the first ones are read.
        vocab_size: token ids that the model knows.

    Raises:
        ValueError: it changes one: the model is not causal.
    """
    device = next(model.parameters()).device
    text = torch.tensor([ids[:_MOST_TOKENS]], device=device)
    logits = _logits(model, text)
    log_probs = logits.log_softmax(-1)
    allowed = _tolerance(model, logits)
    for number in range(1, _OTHERS + 1):
        other = text.clone()
        other[0, -1] = (text[0, -1] + number * vocab_size // (_OTHERS + 1)) % vocab_size
        moved = (_logits(model, other).log_softmax(-1) - log_probs).abs().nan_to_num(0.0, 0.0)
        if float(moved[:-1].max()) > allowed:
            raise ValueError(
                f"the model ({type(model).__name__}) sees later tokens: changing "
                "the last token of a text changes the log-probabilities before it. Only a causal "
                "language model can be scored"
            )
        if float(moved[-1].max()) > 0:  # the other token does make a difference
            return


def _logits(model: PreTrainedModel, text: Tensor) -> Tensor:
    """text (1, time) -> (time, vocabulary) in float32."""
    logits: Tensor = model(input_ids=text, use_cache=False).logits[0].float()
    return logits


def _tolerance(model: PreTrainedModel, logits: Tensor) -> float:
    """The movement that rounding explains, nats."""
    finite = logits[logits.isfinite()]
    if not finite.numel():
        return float("inf")  # a broken model's scores are reported as such
    precision = torch.finfo(next(model.parameters()).dtype).eps / torch.finfo(torch.float32).eps
    return _TOLERANCE * max(precision, 1.0) * float(finite.max() - finite.min())
