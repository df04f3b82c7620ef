"""A language model with a classification head, and the examples that it reads.

The head sees the hidden state of a text's last real token, whatever the architecture: it is the
only one that has read the whole text. Sequences are padded on the right, which reaches no real
token of a causal or recurrent model, so that no attention mask is needed (as in
`analysis.benchmarks.scoring`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from analysis.benchmarks.causality import check_causal
from analysis.benchmarks.classification import Example
from analysis.benchmarks.glue import FinetuneSettings
from analysis.benchmarks.protocols import token_ids
from analysis.benchmarks.scoring import unknown_token

_LINEAR_HEAD_STD = 0.02
# Batches whose examples are sorted by length together: long enough to save most of the padding,
# short enough that a batch still is a random sample.
_BUCKET_BATCHES = 16
EVAL_BATCH = 64
"""Examples that are predicted at once."""


class Classifier(nn.Module):
    """A language model's body and a new head.

    Args:
        model: a transformers causal LM; its body is trained along, in float32, its own head is
            left out.
        num_labels: labels to tell apart.
        settings: `head` and `head_dropout` count.
    """

    def __init__(self, model: PreTrainedModel, num_labels: int, settings: FinetuneSettings) -> None:
        super().__init__()
        self.body = model.base_model
        # Fake tensors (`trainables.launches`) cannot be converted, not even to what they are.
        if any(each.dtype != torch.float32 for each in self.body.parameters()):
            self.body.float()
        width = model.get_output_embeddings().weight.shape[1]
        self.head = _build_head(width, num_labels, settings)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """ids (batch, time), padded on the right; lengths (batch,) -> logits (batch, label)."""
        hidden = self.body(input_ids=ids, use_cache=False).last_hidden_state
        rows = torch.arange(len(ids), device=ids.device)
        return self.head(hidden[rows, lengths - 1])  # (batch, time, dim) -> (batch, dim)


class ClassificationObjective(nn.Module):
    """Cross-entropy of the labels that a classifier gives."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of labels (batch,) in nats, in float32; the others as a classifier's.

        Not the sum, as a trial's: the last bit of earlier results is the mean's.
        """
        return F.cross_entropy(self.model(ids, lengths).float(), labels)


def _build_head(width: int, num_labels: int, settings: FinetuneSettings) -> nn.Module:
    if settings.head == "linear":
        linear = nn.Linear(width, num_labels, bias=False)
        nn.init.normal_(linear.weight, std=_LINEAR_HEAD_STD)
        return linear
    return nn.Sequential(
        nn.LayerNorm(width, elementwise_affine=False),
        nn.Linear(width, width),
        nn.GELU(),
        nn.LayerNorm(width, elementwise_affine=False),
        nn.Dropout(settings.head_dropout),
        nn.Linear(width, num_labels),
    )


@dataclass(frozen=True)
class EncodedExamples:
    """Examples as token ids.

    Attributes:
        ids: of each example, at least one.
        labels: (example,) label indices.
        truncated: examples that were longer than allowed.
    """

    ids: tuple[np.ndarray, ...]
    labels: np.ndarray
    truncated: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, which: np.ndarray) -> EncodedExamples:
        """The examples at these indices."""
        return EncodedExamples(tuple(self.ids[index] for index in which), self.labels[which])

    def batch(self, which: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Ids (batch, time), lengths (batch,) and labels (batch,) of these examples.

        The padding is id 0; any other would do.
        """
        lengths = [len(self.ids[index]) for index in which]
        ids = np.zeros((len(which), max(lengths)), dtype=np.int64)
        for row, index in enumerate(which):
            ids[row, : lengths[row]] = self.ids[index]
        tensors = (ids, np.asarray(lengths), self.labels[which])
        first, second, third = (torch.from_numpy(values).to(device) for values in tensors)
        return first, second, third


def encode(
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    max_length: int,
    name: str = "examples",
) -> EncodedExamples:
    """Encode one or two texts an example as the tokenizer itself does.

    An example of more than `max_length` tokens is cut at the end of its longer text, token by token
    (`longest_first` of the tokenizers library), whatever side the tokenizer itself would cut.

    Args:
        tokenizer: of the model.
        examples: of one task.
        max_length: most tokens of an example.
        name: of their file, for the error.

    Raises:
        ValueError: an example has no token, or something that there is none for.
    """
    texts = [[example.texts[i] for example in examples] for i in range(len(examples[0].texts))]
    whole = token_ids(tokenizer, *texts)
    truncated = sum(len(ids) > max_length for ids in whole)
    if truncated:
        whole = _cut(tokenizer, texts, max_length)
    for index, ids in enumerate(whole):
        if not ids:
            raise ValueError(
                f"{name}, row {index + 1}: the tokenizer finds no token in it: remove the row"
            )
    labels = np.array([example.label for example in examples])
    return EncodedExamples(tuple(np.array(ids) for ids in whole), labels, truncated)


def _cut(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[Sequence[str]], max_length: int
) -> list[list[int]]:
    """Ids of examples, of at most `max_length` tokens each; the tokenizer stays as it was."""
    side = tokenizer.truncation_side
    tokenizer.truncation_side = "right"
    try:
        return token_ids(tokenizer, *texts, truncation="longest_first", max_length=max_length)
    finally:
        tokenizer.truncation_side = side


def check_model(model: PreTrainedModel, parts: Sequence[EncodedExamples]) -> None:
    """Check that the model knows every token, and reads from left to right: its state of the last
    token is what is classified, and padding that follows is not hidden from it.

    Raises:
        ValueError: it does not.
    """
    ids = [each for part in parts for each in part.ids]
    table: Any = model.get_input_embeddings().weight
    vocab_size = len(table)
    largest = max(int(each.max()) for each in ids)
    if largest >= vocab_size:
        raise ValueError(unknown_token(largest, vocab_size))
    longest = max(ids, key=len)
    if len(longest) > 1:
        model.eval()
        with torch.no_grad():
            check_causal(model, longest.tolist(), vocab_size)


def batches(data: EncodedExamples, batch_size: int, seed: int, epoch: int) -> Iterator[np.ndarray]:
    """The batches of an epoch, each an array of example indices: a function of seed and epoch.

    Examples are shuffled, sorted by length within stretches of 16 batches, which saves padding,
    and the batches are shuffled again. The last stretch has a smaller batch.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(data))
    lengths = np.array([len(ids) for ids in data.ids])
    found = []
    for start in range(0, len(order), batch_size * _BUCKET_BATCHES):
        stretch = order[start : start + batch_size * _BUCKET_BATCHES]
        stretch = stretch[np.argsort(lengths[stretch], kind="stable")]
        cuts = range(batch_size, len(stretch), batch_size)
        found += np.split(stretch, cuts)
    for index in random.permutation(len(found)):
        yield found[index]


@torch.no_grad()  # in inference mode, buffers cached by a module could not be trained with
def predict(model: Classifier, data: EncodedExamples, device: torch.device) -> list[int] | None:
    """The most probable label of every example, in float32; None if a logit is not finite.

    Afterwards the model is in evaluation mode.
    """
    model.eval()
    predictions = np.empty(len(data), dtype=np.int64)
    order = np.argsort([len(ids) for ids in data.ids], kind="stable")
    for start in range(0, len(order), EVAL_BATCH):
        which = order[start : start + EVAL_BATCH]
        ids, lengths, _ = data.batch(which, device)
        logits = model(ids, lengths)
        if not torch.isfinite(logits).all():
            return None
        predictions[which] = logits.argmax(1).cpu().numpy()
    return predictions.tolist()


def split(labels: np.ndarray, held_out: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split examples in two with (nearly) equal shares of every label.

    Args:
        labels: (example,) label indices.
        held_out: about how many examples the second part gets: at least one of every label that
            has two, otherwise rounded down.
        seed: of the choice.

    Returns:
        The indices of both parts, ascending.

    Raises:
        ValueError: a part would be empty.
    """
    random = np.random.default_rng(seed)
    chosen: list[int] = []
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        count = len(members) * held_out // len(labels)
        chosen += members[: max(count, min(1, len(members) - 1))].tolist()
    if not chosen or len(chosen) == len(labels):
        raise ValueError(
            f"{len(labels)} training examples are too few to hold some of them out for choosing "
            "the epoch"
        )
    is_chosen = np.isin(np.arange(len(labels)), chosen)
    return np.flatnonzero(~is_chosen), np.flatnonzero(is_chosen)
