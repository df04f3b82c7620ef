"""Which of a study's trials are scored at last, and shown beside each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from analysis.points import uneven
from analysis.schema.axes import AXES
from analysis.study import LENGTH
from sweeps.stored.best import as_compared, best_trial
from sweeps.stored.trials import ended_frame, study_trials
from trainables.checkpoint import TrialFolder
from trainables.spec import TrialSpec


class Finalists:
    """The rows of a study's final table; `sweeps.stored.best` says by which rule.

    Args:
        folder: the study's.
        bases: a spec of each architecture in the sweep's setting, whatever its axes and seed.
    """

    def __init__(self, folder: Path, bases: Sequence[TrialSpec]) -> None:
        self._bases = bases
        corpora = {base.corpus_hash for base in bases}
        self._trials = {  # by the hash of their specs
            trial.spec.hash: trial
            for trial in study_trials(folder)
            if trial.outcome is not None and trial.spec.corpus_hash in corpora
        }
        self._specs = {key: trial.spec for key, trial in self._trials.items()}

    @property
    def rows(self) -> list[tuple[str, TrialFolder]]:
        """The table's trials, each once, with what it was found by.

        "sweep": of each architecture the best trial of the sweep's setting. "epoch study": the best
        of all lengths, if that is another one. "distillation": the best student of each kind.
        "control": what its student is measured against.
        """
        found: list[tuple[str, TrialFolder]] = []
        for base in self._bases:
            found += self._best("sweep", self._swept(base))
        for base in self._bases:
            lengths = (*AXES, *LENGTH)
            setting = base.without(lengths)
            studied = [k for k, spec in self._specs.items() if spec.without(lengths) == setting]
            found += self._best("epoch study", self._frame(studied))
        for keys in self._kinds():
            students = self._best("distillation", self._frame(keys))
            controls = [self._trials.get(trial.spec.control.hash) for _, trial in students]
            found += students
            found += [("control", each) for each in controls if each and _has_checkpoint(each)]
        first: dict[str, tuple[str, TrialFolder]] = {}
        for row in found:
            first.setdefault(row[1].spec.hash, row)
        return list(first.values())

    @property
    def warnings(self) -> list[str]:
        """Sentences on what makes the comparison of architectures unfair, see `uneven`."""
        swept = [trials for base in self._bases if not (trials := self._swept(base)).empty]
        return uneven(pd.concat(swept)) if swept else []

    def _frame(self, keys: Iterable[str]) -> pd.DataFrame:
        return ended_frame(self._trials[key] for key in keys)

    def _swept(self, base: TrialSpec) -> pd.DataFrame:
        """The trials of the sweep's setting by which its points were compared."""
        setting = base.without(AXES)
        frame = self._frame(k for k, spec in self._specs.items() if spec.without(AXES) == setting)
        return frame if frame.empty else as_compared(frame, self._specs)

    def _kinds(self) -> Iterable[list[str]]:
        """The students of each architecture, teacher and way of learning from it."""
        kinds: dict[tuple[object, ...], list[str]] = {}
        for key, spec in self._specs.items():
            if spec.teacher:
                how = (spec.alpha, spec.temperature, spec.reverse_kl, spec.init)
                kinds.setdefault((spec.arch, spec.teacher, *how), []).append(key)
        return kinds.values()

    def _best(self, found_by: str, trials: pd.DataFrame) -> list[tuple[str, TrialFolder]]:
        if trials.empty:
            return []
        row = best_trial(trials, self._specs)
        return [] if row is None else [(found_by, self._trials[str(row["spec_hash"])])]


def _has_checkpoint(trial: TrialFolder) -> bool:
    return trial.outcome is not None and trial.outcome.checkpoint is not None
