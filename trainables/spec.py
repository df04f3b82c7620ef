"""What determines a trial: the frozen spec, its canonical form and its hash.

A trial's identity is the hash of its spec. Its storage folder, MLflow run and lock carry that hash,
so that running a command again finds what it already did.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.schema.axes import AXES
from analysis.schema.fields import CHOICES, TrialFields, names_of
from analysis.schema.ranges import check
from analysis.schema.typed import typed

_FLOATS = names_of("float")
_NEUTRAL = {"float": 1.0, "int": 1}
"""In place of a field without default that does not matter."""


@dataclass(frozen=True)
class TrialSpec(TrialFields):
    """Everything that changes the result of one training run, and nothing else.

    Its fields and their meaning are those of `analysis.schema.fields.TrialFields`. Where it runs
    (devices, workers, storage, micro-batch) is in `trainables.trainer.RuntimeConfig`.
    """

    def __post_init__(self) -> None:
        for name in _FLOATS:  # 1 and 1.0 are the same trial, and so are -0.0 and 0.0
            object.__setattr__(self, name, float(getattr(self, name)) + 0.0)
        check(self)
        if self.warmup + self.decay > 1 and self.schedule == "wsd":
            raise ValueError(f"warmup + decay must not exceed 1, not {self.warmup} + {self.decay}")
        if bool(self.teacher) != (self.alpha > 0):
            raise ValueError(
                "alpha and a teacher go together: with alpha 0 nothing is learned from it "
                f"(alpha {self.alpha}, teacher {self.teacher!r})"
            )
        for name, choices in CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")

    def to_dict(self) -> dict[str, Any]:
        """All fields, by name."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> TrialSpec:
        """The spec with these fields.

        Raises:
            ValueError: a field is unknown, missing, or of a value that it cannot have.
        """
        spec: TrialSpec = typed(values, cls)
        return spec

    @property
    def canonical(self) -> str:
        """Canonical JSON of what identifies the trial.

        Fields at their default are left out, so that a field added later, whose default means
        "as before", leaves the identity of earlier trials as it was.
        """
        identity = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.metadata.get("identity", True) and getattr(self, f.name) != f.default
        }
        return json.dumps(identity, sort_keys=True, separators=(",", ":"))

    @property
    def hash(self) -> str:
        """Sixteen hex digits that identify the trial."""
        return _digest(self.canonical)

    @property
    def name(self) -> str:
        """A readable name, e.g. `hgrn2 lr=1e-3 seed=0`, with alpha and T if it is distilled."""
        return self.name_among(())

    def name_among(self, fields: Iterable[str]) -> str:
        """The name among trials that differ in these fields: with these values, default or not."""
        told = {**self.point, **{name: getattr(self, name) for name in fields}}
        values = {name: AXES[name].show(told.pop(name)) for name in AXES if name in told}
        values |= {name: _shown(value) for name, value in told.items()}
        texts = " ".join(f"{name}={text}" for name, text in values.items())
        distilled = f" alpha={self.alpha:g} T={self.temperature:g}" if self.teacher else ""
        return f"{self.arch} {texts} seed={self.seed}{distilled}"

    @property
    def point(self) -> dict[str, Any]:
        """The learning rate, and those values of further axes that are not the default."""
        others = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name in AXES and f.default not in (dataclasses.MISSING, getattr(self, f.name))
        }
        return {"lr": self.lr, **others}

    def replace(self, **changes: Any) -> TrialSpec:
        """A copy with these fields changed."""
        return dataclasses.replace(self, **changes)

    def without(self, axes: Iterable[str]) -> TrialSpec:
        """The spec whatever its seed and these fields: equal for trials of one sweep over them."""
        neutral = {
            f.name: _NEUTRAL[str(f.type)] if f.default is dataclasses.MISSING else f.default
            for f in dataclasses.fields(self)
            if f.name in axes
        }
        return self.replace(**neutral, seed=0, corpus="", teacher_name="")

    @property
    def setting(self) -> TrialSpec:
        """The spec whatever its learning rate and seed: equal for trials on one curve."""
        return self.without(("lr",))

    def sweep_hash(self, axes: Sequence[str]) -> str:
        """Sixteen hex digits that identify the sweep over these axes that the trial belongs to."""
        setting = self.without(axes)
        if tuple(axes) == ("lr",):
            return setting.hash
        return _digest(f"{setting.canonical} {','.join(sorted(axes))}")

    @property
    def setting_name(self) -> str:
        """A readable name of the setting, e.g. `hgrn2 mini 3 epochs`."""
        distilled = f" alpha={self.alpha:g} T={self.temperature:g}" if self.teacher else ""
        return f"{self.arch} {self.size} {self.epochs} epochs{distilled}"

    @property
    def control(self) -> TrialSpec:
        """The spec without distillation: plain training, and the trial of any sweep that ran it."""
        return self.replace(
            teacher="", teacher_name="", alpha=0.0, temperature=1.0, reverse_kl=False
        )


def _shown(value: Any) -> str:
    """A value in a name; of each hash the first digits."""
    if isinstance(value, float):
        return f"{value:g}"
    return "+".join(part[:8] for part in str(value).split("+")) or "none"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
