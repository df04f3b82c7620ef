"""Checkpoints of models after a brief training, as trials leave them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import models
from trainables.checkpoint import TrialFolder
from trainables.corpus import Blocks, Corpus
from trainables.spec import TrialSpec
from trainables.trainer import Trainer, TrialData, World

RATES = {"lstm": 3e-2}
"""Peak learning rates, where it is not the common one."""
COMMON_RATE = 3e-3


@dataclass(frozen=True)
class Checkpoint:
    """A trained model, its tokenizer, where both are saved, and its last loss in nats a token."""

    path: Path
    model: Any
    tokenizer: Any
    loss: float


def train(
    arch: str, size: str, corpus: Corpus, study: Path, *, steps: int, batch: int, context: int
) -> Checkpoint:
    """Train on the first batches of a corpus; its learning rate decays over a whole epoch."""
    spec = TrialSpec(
        arch,
        size,
        corpus.name,
        corpus.hash,
        context=context,
        batch_size=batch,
        lr=RATES.get(arch, COMMON_RATE),
        epochs=1,
        seed=0,
        revision=models.revision(arch),
    )
    blocks = (Blocks(tokens, context) for tokens in (corpus.train, corpus.dev))
    tokenizer = corpus.tokenizer()
    trainer = Trainer(spec, TrialData(corpus, *blocks, tokenizer, None), World(), None)
    nats = [trainer.step()[0].item() for _ in range(steps)]
    trainer.model.eval()
    path = TrialFolder.of(study, spec).save(
        trainer.model, tokenizer, trainer.optimizer, spec, trainer.progress
    )
    return Checkpoint(path, trainer.model, tokenizer, nats[-1] / (batch * context))
