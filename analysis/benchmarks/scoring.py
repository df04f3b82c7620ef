"""One log-probability engine for every zero-shot benchmark.

A benchmark turns its items into `Span`s (token ids, and which of them count), hands all of them
over in one call, and gets the log-probabilities of each span's tokens. Batching, padding and
precision live here only, so that no score can depend on them.

Right padding needs no attention mask: in a causal or recurrent model the hidden state at a position
is a function of the tokens up to it, so what follows the last real token reaches no scored one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from analysis.benchmarks.causality import check_causal

Progress = Callable[[int, int], None]
PRECISIONS = ("fp32", "bf16")

# Most tokens of a batch: what fits a CPU's caches is fastest there, an accelerator wants more.
_CPU_TOKEN_BUDGET = 1024
_ACCELERATOR_TOKEN_BUDGET = 32768
# Logits are made in slices of at most this many numbers (4 MiB in float32) for any vocabulary, 64
# times as many on an accelerator. Larger ones are no faster, and allocators keep what they took.
_MAX_LOGITS = 2**20


@dataclass(frozen=True)
class Span:
    """Token ids of which those in [start, end) are scored, each given all ids before it.

    Attributes:
        ids: token ids, context first.
        start: first scored position; at least 1, for nothing predicts the first token.
        end: position after the last scored one; None for the end of `ids`.
        name: where the text comes from, for error messages; not part of the span's identity.
    """

    ids: tuple[int, ...]
    start: int = 1
    end: int | None = None
    name: str = field(default="", compare=False)

    @property
    def stop(self) -> int:
        """Position after the last scored one."""
        return len(self.ids) if self.end is None else self.end

    @property
    def num_inputs(self) -> int:
        """Tokens the model has to read: the last scored one is only predicted, never read."""
        return self.stop - 1


def sequence_log_probs(model: Any, sequences: Sequence[Span], **options: Any) -> list[float]:
    """Sum of the log-probabilities (nats) of each span's scored tokens; see `token_log_probs`."""
    scored = token_log_probs(model, sequences, **options)
    return [float(values.sum(dtype=np.float64)) for values in scored]


def keep_last(spans: Sequence[Span], context: int) -> list[Span]:
    """Spans that a model with this context can read: of a longer one the last tokens are kept.

    The rule is lm-eval's: the model reads the `context` tokens before the last scored one, and
    scored tokens further back are not scored.
    """
    return [_keep_last(span, context) for span in spans]


def _keep_last(span: Span, context: int) -> Span:
    cut = span.num_inputs - context
    if cut <= 0:
        return span
    ids, start = span.ids[cut : span.stop], max(span.start - cut, 1)
    return Span(ids, start, name=span.name)


def token_log_probs(
    model: Any,
    sequences: Sequence[Span],
    *,
    precision: str = "fp32",
    token_budget: int | None = None,
    progress: Progress | None = None,
) -> list[np.ndarray]:
    """Log-probability (nats) of every scored token, one float32 array per span.

    Equal spans are scored once, so they get bitwise equal values; other results depend on batch
    size and order by rounding only (below 1e-4 a sequence in float32). The model runs on its own
    device, the softmax in float32. Training mode is restored.

    Args:
        model: a transformers causal LM. Where its logits are `get_output_embeddings()` of
            `base_model(...).last_hidden_state` only scored positions go through the head.
        sequences: the spans.
        precision: "fp32" computes in the type of the model's parameters, "bf16" under autocast.
        token_budget: most tokens of one batch, padding included (a longer span is a batch alone);
            it bounds the memory. None for 1,024 on a CPU, 32,768 on an accelerator.
        progress: called after each batch with (distinct spans done, distinct spans in all).

    Raises:
        ValueError: what `check_spans` refuses, or a model that sees later tokens.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    if token_budget is None:
        on_cpu = _device(model).type == "cpu"
        token_budget = _CPU_TOKEN_BUDGET if on_cpu else _ACCELERATOR_TOKEN_BUDGET
    if token_budget < 1:
        raise ValueError(f"token_budget must be at least 1 token, not {token_budget}")
    vocab_size = _vocab_size(model)
    check_spans(sequences, context_of(model.config), vocab_size)
    distinct = sorted(dict.fromkeys(sequences), key=lambda span: span.num_inputs)
    per_batch: list[Tensor] = []
    done = 0
    if distinct and isinstance(model, PreTrainedModel):
        with _scoring(model, "fp32"):
            check_causal(model, distinct[-1].ids, vocab_size)
    with _scoring(model, precision):
        is_plain = _has_plain_head(model, distinct)
        if not is_plain:  # the logits of all positions exist at once
            token_budget = min(token_budget, max(1, 16 * _MAX_LOGITS // model.config.vocab_size))
        for batch in _batches(distinct, token_budget):
            per_batch += _score_fitting(model, batch, is_plain)
            done += len(batch)
            if progress is not None:
                progress(done, len(distinct))
    # One copy at the end: a copy per batch would make an accelerator wait every time.
    flat = torch.cat(per_batch).cpu().numpy() if per_batch else np.empty(0, np.float32)
    ends = np.cumsum([span.stop - span.start for span in distinct])[:-1]
    by_span = dict(zip(distinct, np.split(flat, ends), strict=True)) if distinct else {}
    return [by_span[span] for span in sequences]


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def context_of(config: PreTrainedConfig) -> int | None:
    """The most tokens that a model reads, None for any number."""
    most = getattr(config, "max_position_embeddings", None)
    return most if most is not None and most > 0 else None  # XLNet's is -1


def vocab_size_of(config: PreTrainedConfig) -> int | None:
    """The number of token ids that a model knows, None if its config does not tell."""
    return getattr(config.get_text_config(), "vocab_size", None)


def _vocab_size(model: Any) -> int:
    """Rows of the smaller one of the embedding table and the head."""
    layers = [model.get_output_embeddings()]
    if isinstance(model, PreTrainedModel):
        layers.append(model.get_input_embeddings())
    tables = [getattr(layer, "weight", None) for layer in layers]
    rows = [len(table) for table in tables if table is not None]
    return min(rows) if rows else int(model.config.get_text_config().vocab_size)


def check_spans(sequences: Sequence[Span], context: int | None, vocab_size: int | None) -> None:
    """Check that a model can score all spans.

    Args:
        sequences: the spans.
        context: the most tokens that the model reads; None for any number.
        vocab_size: token ids that it knows; None: not known yet.

    Raises:
        ValueError: a span has nothing to score, is longer than the context, or has a token that the
            model does not know.
    """
    for index, span in enumerate(sequences):
        _check(span, index, context)
        if vocab_size is not None and max(span.ids) >= vocab_size:
            raise ValueError(f"{_called(span, index)}: {unknown_token(max(span.ids), vocab_size)}")


def unknown_token(token_id: int, vocab_size: int) -> str:
    """The error of a tokenizer that gives a token which the model does not know."""
    return (
        f"the tokenizer gives token {token_id}, the model knows 0 to {vocab_size - 1} only: put "
        "the model's own tokenizer into its folder"
    )


def _called(span: Span, index: int) -> str:
    return f"sequence {index}" + (f" ({span.name})" if span.name else "")


def _check(span: Span, index: int, context: int | None) -> None:
    which = _called(span, index)
    if not 1 <= span.start < span.stop <= len(span.ids):
        raise ValueError(
            f"{which}: nothing to score in positions [{span.start}, {span.stop}) of "
            f"{len(span.ids)} tokens: there must be at least one scored position, from 1 on, for "
            "nothing predicts the first token; without a BOS token a text needs two tokens"
        )
    if context is not None and span.num_inputs > context:
        raise ValueError(
            f"{which}: the model would read {span.num_inputs} tokens, its context is {context} "
            "(config.max_position_embeddings): leave the item out, use a longer context, or "
            "keep only the last tokens (see keep_last; --long-texts truncate)"
        )


@contextmanager
def _scoring(model: nn.Module, precision: str) -> Iterator[None]:
    """Evaluation mode without gradients; each module's own mode comes back after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        # no_grad, not inference_mode: what a module caches on its first call (rotary tables, masks)
        # would otherwise be an inference tensor, and the next training step would fail on it.
        is_bf16 = precision == "bf16"
        autocast = torch.autocast(_device(model).type, torch.bfloat16, enabled=is_bf16)
        with torch.no_grad(), autocast:
            yield
    finally:
        for module, training in modes:
            module.training = training


def _batches(spans: Sequence[Span], token_budget: int) -> Iterator[list[Span]]:
    """Consecutive spans, sorted by length, whose padded size fits the budget."""
    batch: list[Span] = []
    for span in spans:
        if batch and (len(batch) + 1) * span.num_inputs > token_budget:
            yield batch
            batch = []
        batch.append(span)
    if batch:
        yield batch


def _has_plain_head(model: Any, spans: Sequence[Span]) -> bool:
    """Whether the logits are the head of the hidden states, with nothing after it.

    Some models scale or cap their logits. Seen on the longest text, whose tokens are no padding:
    that of a new model has an embedding of zeros, which no scale changes.
    """
    if not isinstance(model, PreTrainedModel) or not spans:
        return True
    if model.base_model is model or model.get_output_embeddings() is None:
        return False
    ids = torch.tensor([spans[-1].ids[: spans[-1].num_inputs]], device=_device(model))
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    logits = model(input_ids=ids, use_cache=False).logits.float()
    mine = model.get_output_embeddings()(hidden).float()
    size = float(logits.abs().max())
    if not 0 < size < math.inf:  # nothing to tell it from
        return False
    return torch.allclose(mine, logits, rtol=1e-4, atol=1e-5 * size, equal_nan=True)


def _score_fitting(model: Any, batch: Sequence[Span], is_plain: bool) -> list[Tensor]:
    """Score a batch as `_score_batch` does, in as many pieces as the device's memory makes it."""
    try:
        return [_score_batch(model, batch, is_plain)]
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    middle = len(batch) // 2
    halves = batch[:middle], batch[middle:]
    return [scores for half in halves for scores in _score_fitting(model, half, is_plain)]


def _score_batch(model: Any, batch: Sequence[Span], is_plain: bool) -> Tensor:
    """Log-probabilities of the scored tokens of all spans, one after the other: (scored,)."""
    device = _device(model)
    width = batch[-1].num_inputs
    # Id 0 is the padding: any id of the vocabulary would do.
    ids = np.zeros((len(batch), width + 1), dtype=np.int64)
    scored = np.zeros((len(batch), width), dtype=bool)
    for row, span in enumerate(batch):
        ids[row, : span.stop] = span.ids[: span.stop]
        scored[row, span.start - 1 : span.stop - 1] = True  # position t predicts token t + 1
    inputs = _to(device, ids[:, :-1].copy())  # (batch, time)
    targets = _to(device, ids[:, 1:][scored])  # (scored,)
    # Positions rather than a mask, whose ones an accelerator would have to be asked to count.
    where = _to(device, np.flatnonzero(scored))  # (scored,) out of batch * time
    if not is_plain:
        logits = model(input_ids=inputs, use_cache=False).logits.flatten(0, 1)[where]
        return -F.cross_entropy(logits.float(), targets, reduction="none")
    hidden = model.base_model(input_ids=inputs, use_cache=False).last_hidden_state
    hidden = hidden.flatten(0, 1)[where]  # (scored, dim)
    head = model.get_output_embeddings()
    most = _MAX_LOGITS if device.type == "cpu" else 64 * _MAX_LOGITS
    rows = max(1, most // head.weight.shape[0])
    slices = zip(hidden.split(rows), targets.split(rows), strict=True)
    return torch.cat([-F.cross_entropy(head(h).float(), t, reduction="none") for h, t in slices])


def _to(device: torch.device, array: np.ndarray) -> Tensor:
    """The array as a tensor on the device, without waiting for what that is doing."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
