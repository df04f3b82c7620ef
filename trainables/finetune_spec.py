"""What determines a fine-tuning, and how it ended."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from analysis.benchmarks.glue import FinetuneSettings
from analysis.schema.choices import EpochSelection
from analysis.schema.fields import CHOICES
from analysis.schema.ranges import MOST, check, within
from analysis.schema.typed import typed
from trainables.files import read_or_set_aside
from trainables.kept import kept

OUTCOME = "outcome.json"
_ENDS = ("finished", "diverged")
_MODEL_FILES = ("config.json", "tokenizer*", "special_tokens_map.json", "vocab.*", "merges.txt")


@dataclass(frozen=True)
class FinetuneSpec:
    """Everything that changes the result of one fine-tuning, and nothing else.

    Attributes:
        model_hash: of the model's weights, config and tokenizer, from `model_hash`.
        task: name of the task.
        data_hash: of its examples, `TaskData.hash`.
        protocol: whose settings these are by default: one of `PROTOCOLS`.
        settings: how to fine-tune; the seed is among them.
        selection: what the epoch is chosen on. "split": a tenth of the training examples, at most
            about 2,000, which are not trained on. "reported": the examples whose score is reported,
            as leaderboards do; the score is then the best of several tries.
        precision: "fp32", or "bf16" autocast with float32 weights.
    """

    model_hash: str
    task: str
    data_hash: str
    protocol: str
    settings: FinetuneSettings
    selection: str = "split"
    precision: str = "fp32"

    def __post_init__(self) -> None:
        selections, precisions = get_args(EpochSelection), CHOICES["precision"]
        for name, choices in (("selection", selections), ("precision", precisions)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}"
                )

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FinetuneSpec:
        """The inverse of `to_dict`; a ValueError for what it cannot have made."""
        spec: FinetuneSpec = typed(values, cls)
        return spec

    @property
    def hash(self) -> str:
        """Sixteen hex digits that identify the fine-tuning."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class EpochScore:
    """One epoch.

    Attributes:
        epoch: 1-based.
        loss: mean training cross-entropy, nats an example.
        score: the task's metric on the selection examples, percent.
    """

    epoch: int = within(1, MOST)
    loss: float = within(0, MOST)
    score: float = within(-MOST, MOST)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class FinetuneOutcome:
    """The end of a fine-tuning.

    Attributes:
        kind: "finished", or "diverged" (a loss or a logit was not finite).
        task, metric, protocol, seed: what was fine-tuned, and how the score is meant.
        selection: what the epoch was chosen on; see `FinetuneSpec`.
        score: of the reported examples with the chosen epoch's weights, percent; None if diverged.
        error: its standard error over examples, percentage points.
        baseline: `classification.baseline`, percent.
        epoch: the chosen one: of the best selection score, the earliest of equals.
        history: all epochs.
        predictions: label indices of the reported examples, in the file's order.
        num_train, num_selection, num_reported: examples.
        max_length: tokens of an example: the settings', or the model's context if that is less.
        truncated: training and reported examples that were longer.
        reason: of a divergence.
        precision: of the training's arithmetic; see `FinetuneSpec`. Predictions are float32's.
    """

    kind: str
    task: str
    metric: str
    protocol: str
    seed: int
    selection: str
    score: float | None
    error: float | None
    baseline: float
    epoch: int | None
    history: tuple[EpochScore, ...]
    predictions: tuple[int, ...]
    num_train: int = within(0, MOST)
    num_selection: int = within(0, MOST)
    num_reported: int = within(0, MOST)
    max_length: int = within(1, MOST)
    truncated: int = within(0, MOST)
    reason: str = ""
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if self.kind not in _ENDS:
            raise ValueError(f"a fine-tuning ends as one of {', '.join(_ENDS)}, not {self.kind!r}")
        has_score = None not in (self.score, self.error) and (self.epoch or 0) >= 1
        if self.kind == "finished" and not has_score:
            raise ValueError("a finished fine-tuning has a score, its error and an epoch from 1")
        check(self)


def model_hash(folder: Path) -> str:
    """Hash of the model in a folder: weights (safetensors), config and tokenizer.

    Raises:
        ValueError: there is no config.json or no model*.safetensors.
    """
    weights = sorted(folder.glob("model*.safetensors"))
    if not weights or not (folder / "config.json").is_file():
        raise ValueError(
            f"no model in {folder}: expected a folder with config.json, model.safetensors and a "
            "tokenizer, such as a checkpoint of a trial"
        )
    digest = hashlib.sha256()
    for file in [*weights, *sorted(f for name in _MODEL_FILES for f in folder.glob(name))]:
        with file.open("rb") as stream:
            digest.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def read_outcome(storage: Path, spec: FinetuneSpec) -> FinetuneOutcome | None:
    """The end of the fine-tuning of this spec, or None while it has not ended."""
    folder = storage / spec.hash
    if (of_bucket := kept(folder)) is not None:
        of_bucket.bring(lambda name: name == OUTCOME)
    return read_or_set_aside(
        folder / OUTCOME,
        FinetuneOutcome,
        None,
        then=f"{spec.task} is fine-tuned again",
    )
