"""The section of a report that says how to get a study again."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from analysis.arguments import ReportArgs
from analysis.commands import COMMAND_TAG, CUT, record, typed
from analysis.reporting.page import Section
from analysis.reporting.sections.common import ReportContext
from analysis.reporting.sections.reproduction import reproduction
from analysis.study import Study
from sweeps.arguments import LrSweepArgs
from tests.made_study import MadeStudy, base_spec

SWEEP = LrSweepArgs(arch=("mamba",))


@pytest.fixture
def made(tmp_path: Path) -> MadeStudy:
    """A study of one trial, of which no command is recorded."""
    study = MadeStudy(tmp_path, name="my study", suite=None)
    study.sweep(["mamba"], (1e-2,), (0,))
    return study


def section(made: MadeStudy) -> Section:
    study = Study.open(made.uri, made.name, "")
    return reproduction(ReportContext(study, "macro", made.storage)).section


def parent(made: MadeStudy) -> tuple[MlflowClient, str]:
    """A client, and the id of the sweep's run."""
    study = Study.open(made.uri, made.name, "")
    return study.client, study.trials["parent"].iloc[0]


def test_nothing_is_typed_where_nothing_was_recorded(made: MadeStudy) -> None:
    found = section(made)
    assert found.commands == ()
    assert found.paragraphs == ("The commands that made this study were not recorded.",)


def test_the_lines_end_with_this_report(made: MadeStudy) -> None:
    """And begin with a storage of their own."""
    client, run_id = parent(made)
    record(client, [run_id], SWEEP, made.storage)
    first, *lines = section(made).commands
    assert first.startswith("export BABYSWEEP_STORAGE=")
    assert lines == [typed(SWEEP), typed(ReportArgs(study="my study", select="macro"))]
    assert "--study 'my study' --select macro" in lines[1]
    assert len(section(made).paragraphs) == 1


def test_what_is_missing_is_said(made: MadeStudy) -> None:
    """Commands of an earlier version, and those that a tag did not hold."""
    client, run_id = parent(made)
    client.set_tag(run_id, COMMAND_TAG, f"{CUT}\npython sweeps/lr_sweep.py --storage old")
    found = section(made)
    assert len(found.commands) == 3
    assert CUT not in found.commands
    assert "recorded by an earlier version" in found.paragraphs[1]
    assert "the earliest are missing" in found.paragraphs[2]


@pytest.mark.parametrize("origin", ["my study", "another"])
def test_a_teacher_of_another_study_is_named(made: MadeStudy, origin: str) -> None:
    """Its commands are in the report of that one."""
    students = base_spec(teacher="abcd+ef", teacher_name="models:/mamba/1", alpha=0.5)
    made.add([students], kind="distillation")
    client, run_id = parent(made)
    record(client, [run_id], SWEEP, made.storage)
    client.create_registered_model("mamba")
    tags = {"babysweep.model_hash": "ef", "babysweep.study": origin}
    client.create_model_version("mamba", "somewhere", run_id, tags=tags)
    said = section(made).paragraphs[1:]
    is_named = any("mamba version 1 (another) taught here" in text for text in said)
    assert is_named is (origin == "another")
