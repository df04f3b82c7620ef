"""Every architecture is known wherever CONTRIBUTING.md says that a new one is to be added."""

from __future__ import annotations

import re
from typing import get_args

import models
from analysis import literature
from analysis.benchmarks import glue
from analysis.benchmarks.kinds import ALL_KINDS, KINDS
from analysis.flag_values import checked
from analysis.plots.style import ARCH_STYLES
from analysis.schema.choices import BENCHMARKS, GLUE_TASKS, MULTILINGUAL_TASKS, OTHER_FOLDERS
from models.sizes import PRESETS
from sweeps.arguments import EvaluateArgs
from sweeps.arguments.training import CORPORA, Architecture
from sweeps.plans.common import chosen_archs
from tests.architectures import FACTS
from tests.processes import ROOT
from trainables.corpus.sources import HUB_IDS


def test_the_help_of_the_commands_names_all() -> None:
    """In the registry's order."""
    assert get_args(Architecture) == models.architectures()


def test_the_flags_know_the_short_names_of_corpora() -> None:
    assert ("mini", *HUB_IDS) == CORPORA


def test_the_flags_know_all_tasks() -> None:
    """And those that stand for several."""
    assert tuple(KINDS) == BENCHMARKS
    assert tuple(glue.TASKS) == (*GLUE_TASKS, *MULTILINGUAL_TASKS)
    assert checked(EvaluateArgs(model="x", tasks=glue.NAMES)).tasks == glue.NAMES
    for kind in ALL_KINDS:
        assert all(each.startswith(BENCHMARKS) or each in OTHER_FOLDERS for each in kind.folders)


def test_every_size_has_all() -> None:
    for size, shapes in PRESETS.items():
        assert tuple(shapes) == models.architectures(), size


def test_all_have_a_look_of_their_own() -> None:
    """Colour and marker: lines of one picture are told apart in print, too."""
    assert tuple(ARCH_STYLES) == models.architectures()
    for attribute in ("color", "marker", "dashes"):
        assert len({getattr(look, attribute) for look in ARCH_STYLES.values()}) == len(ARCH_STYLES)


def test_the_tests_are_told_of_all() -> None:
    assert tuple(FACTS) == models.architectures()


def test_the_readme_names_all() -> None:
    """In the sentence that says what is compared."""
    sentence = re.search(
        r"\w+ architectures are compared.*?\n\n", (ROOT / "README.md").read_text(), re.S
    )
    assert sentence is not None
    assert set(models.architectures()) <= set(re.findall(r"`(\w+)`", sentence[0]))


def test_the_study_stays_the_study() -> None:
    """`study`, which `paper.py` reproduces, is the five whose figures were published, whatever has
    been added since; `all` is every one; names may stand beside them."""
    five = ("transformer", "lstm", "xlstm", "mamba", "hgrn2")
    assert chosen_archs(("study",)) == tuple(literature.BEST) == five
    assert chosen_archs(("all",)) == models.architectures()
    assert chosen_archs(("hgrn2", "study")) == ("hgrn2", "transformer", "lstm", "xlstm", "mamba")
