"""The fields of a trial's spec, by which trials are made, recorded and read."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from analysis.schema.ranges import LARGEST_SEED, MOST, MOST_EPOCHS, Range, within

_NOT_IDENTITY = {"identity": False}


Schedule = Literal["linear", "cosine", "wsd"]
Precision = Literal["fp32", "bf16"]
Protocol = Literal["2024", "2025", "2026"]
Optimizer = Literal["adamw", "muon"]
CHOICES = {
    name: get_args(kind)
    for name, kind in (
        ("schedule", Schedule),
        ("precision", Precision),
        ("protocol", Protocol),
        ("optimizer", Optimizer),
    )
}
"""By field, its values where they are names."""


@dataclass(frozen=True)
class TrialFields:
    """Everything that changes the result of one training run, and nothing else.

    `trainables.spec.TrialSpec` checks them and makes a trial's identity of them. A field that is
    added gets a default that means "as before".

    Attributes:
        arch: architecture, one of `models.architectures()`.
        size: preset, one of `models.sizes()`.
        corpus: readable name of the corpus; its content counts (`corpus_hash`), not its name.
        corpus_hash: hash of text, tokenizer and splits, from `trainables.corpus`.
        benchmarks_hash: hash of the zero-shot items scored each epoch, or "" for none.
        protocol: zero-shot protocol, "2024" (leading space, BOS), "2025" or "2026" (text as it is);
            decides which benchmarks the macro averages, too.
        context: tokens in one block.
        batch_size: blocks in one optimizer step, over all workers together.
        lr: peak learning rate.
        epochs: passes over the training blocks; the schedule spans them all.
        seed: of the initial weights, the order of blocks, and dropout.
        schedule: "linear" or "cosine" decay to zero, or "wsd" (warm-up, stable, linear decay).
        warmup: fraction of all steps with linearly rising learning rate.
        warmup_steps: their number, in place of the fraction; 0 for the fraction.
        decay: fraction of all steps in the final decay of "wsd".
        weight_decay: decoupled, on matrices only (Loshchilov & Hutter 2019, arXiv 1711.05101).
        beta1, beta2, eps: of AdamW, also beside Muon.
        grad_clip: maximum global L2 norm of the gradient.
        precision: "fp32", or "bf16" autocast with float32 weights.
        revision: of the architecture's shapes and initialisation, `models.revision(arch)`.
        teacher: hash of the model to learn from besides the text, several joined by "+", or "".
        teacher_name: readable name of it.
        alpha: weight of the divergence from the teacher in the loss, 0 to 1.
        temperature: of the probabilities of teacher and student in the divergence.
        reverse_kl: KL(student || teacher) in place of KL(teacher || student).
        init: hash of the model whose weights the training starts from, "" for random ones.
        dropout: share of the embeddings and of what each layer adds to them that a training step
            drops, 0 to below 1, besides what the architecture's preset drops itself.
        optimizer: "adamw", or "muon" for hidden matrices with AdamW for the rest; see
            `trainables.optim.build_optimizer`.
    """

    arch: str
    size: str
    corpus: str = field(metadata=_NOT_IDENTITY)
    corpus_hash: str
    context: int = within(2, MOST)
    batch_size: int = within(1, MOST)
    lr: float = within(1e-15, 1e9)
    epochs: int = within(1, MOST_EPOCHS)
    seed: int = within(0, LARGEST_SEED)
    benchmarks_hash: str = ""
    protocol: str = "2024"
    schedule: str = "linear"
    warmup: float = within(0, 1, default=0.05)
    decay: float = within(0, 1, default=0.2)
    weight_decay: float = within(0, 1e9, default=0.1)
    beta1: float = within(0, 1, below=True, default=0.9)
    beta2: float = within(0, 1, below=True, default=0.95)
    eps: float = within(0, 1, default=1e-8)
    grad_clip: float = within(0, 1e9, default=1.0)
    precision: str = "fp32"
    revision: int = within(1, MOST, default=1)
    warmup_steps: int = within(0, MOST, default=0)
    teacher: str = ""
    teacher_name: str = field(default="", metadata=_NOT_IDENTITY)
    alpha: float = within(0, 1, default=0.0)
    temperature: float = within(1e-6, 1e6, default=1.0)
    reverse_kl: bool = False
    init: str = ""
    dropout: float = within(0, 1, below=True, default=0.0)
    optimizer: str = "adamw"


def names_of(kind: str) -> tuple[str, ...]:
    """The fields of a type: "int", "float", "str" or "bool"."""
    return tuple(f.name for f in dataclasses.fields(TrialFields) if f.type == kind)


def range_of(name: str) -> Range | None:
    """The range of a field's values, None for what is no number."""
    (found,) = [f for f in dataclasses.fields(TrialFields) if f.name == name]
    return found.metadata.get("range")


def trial_field(name: str, **options: Any) -> Any:
    """A dataclass field for values that a field of a trial can have."""
    return field(metadata={"range": range_of(name)}, **options)


DEFAULTS = {
    f.name: str(f.default)
    for f in dataclasses.fields(TrialFields)
    if f.default is not dataclasses.MISSING
}
"""What a field that a trial has not recorded stands for, as it would be recorded: the trial is of a
version that had no such field, and did as this value says."""
