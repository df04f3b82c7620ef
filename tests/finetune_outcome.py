"""The outcome of a fine-tuning, as one could be."""

from __future__ import annotations

from trainables.finetune_spec import FinetuneOutcome

OF_RTE = FinetuneOutcome(
    kind="finished",
    task="rte",
    metric="accuracy",
    protocol="2024",
    seed=0,
    selection="split",
    score=60.0,
    error=1.0,
    baseline=50.0,
    epoch=1,
    history=(),
    predictions=(1, 0),
    num_train=1,
    num_selection=1,
    num_reported=2,
    max_length=8,
    truncated=0,
)
