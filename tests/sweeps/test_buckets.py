"""Sweeps whose studies are kept in a bucket: the same figures, wherever and whatever is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from rich.console import Console

from analysis.addresses import SCRATCH, copy_of
from analysis.store import tracking_uri
from sweeps.engine import lease
from sweeps.engine.lease import sole_command
from sweeps.plans.common import SweepPlan
from sweeps.running.trials import _open_tracker
from sweeps.stored.trials import resolve_storage
from tests.empty_store import empty_store
from tests.processes import wait_for
from tests.sweeps.conftest import SweepCommand
from tests.sweeps.servers import S3Server, missing_s3
from tests.sweeps.test_lr_sweep import assert_clean

needs_s3 = pytest.mark.skipif(bool(missing_s3()), reason=missing_s3())


@pytest.fixture
def s3() -> Iterator[S3Server]:
    """A bucket on S3."""
    with S3Server() as server:
        yield server


@pytest.fixture
def in_bucket(sweep: SweepCommand, s3: S3Server, tmp_path: Path):
    """Flags and variables of the sweep, to be kept in the bucket; on a machine of this name."""
    sweep.storage.mkdir()

    def on(machine: str):
        variables = {
            **s3.env,
            SCRATCH: str(tmp_path / machine),
            "MLFLOW_TRACKING_URI": f"sqlite:///{sweep.storage / 'mlflow.db'}",
        }
        return ("--storage", f"s3://{s3.bucket}/studies"), variables

    return on


@needs_s3
@pytest.mark.slow
def test_a_sweep_in_a_bucket_equals_one_in_a_folder(
    sweep: SweepCommand, whole_sweep: SweepCommand, s3: S3Server, in_bucket
) -> None:
    """S3 refuses everything for a while in the middle: that while is all that it costs. Later
    another machine, with nothing on its disk, finds all that there is to find."""
    flags, variables = in_bucket("one")
    process = sweep.start(*flags, "--checkpoint-minutes", "0.001", **variables)
    seen = wait_for(process, r"epoch 1/3")
    s3.kill()
    threading.Timer(10, s3.start).start()
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, seen + output
    assert_clean(sweep, trials=2)
    reference = whole_sweep.results()
    assert sweep.results() == reference
    assert all(secret not in seen + output for secret in list(s3.env.values())[:2])
    objects = s3.objects()
    weights = [name for name in objects if name.endswith("model.safetensors")]
    assert {name.split("/")[3] for name in weights} == {*reference}

    before = s3.objects()
    flags, variables = in_bucket("two")
    again = sweep.run(*flags, **variables)
    assert "0 trials to train" in again
    assert {name: size for name, size in s3.objects().items() if "/trials/" in name} == {
        name: size for name, size in before.items() if "/trials/" in name
    }


@needs_s3
@pytest.mark.slow
def test_a_minute_without_s3_costs_that_minute(
    sweep: SweepCommand, s3: S3Server, in_bucket
) -> None:
    """Beside the same sweep without one, in this order: what is read once is in memory by then for
    neither, or for the one that has to wait as well."""
    _, variables = in_bucket("one")

    def seconds(folder: str, away: float) -> float:
        started = time.monotonic()
        flags = ("--storage", f"s3://{s3.bucket}/{folder}", "--study", folder)
        process = sweep.start(*flags, "--checkpoint-minutes", "0.001", **variables)
        seen = wait_for(process, r"epoch 1/3")
        if away:
            s3.kill()
            threading.Timer(away, s3.start).start()
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, seen + output
        return time.monotonic() - started

    first, without, with_it = (seconds(*each) for each in (("a", 0), ("b", 0), ("c", 60)))
    print(f"{first:.1f} s, {without:.1f} s, and with a minute without S3 {with_it:.1f} s")
    assert with_it - without <= 60 + 5 + abs(first - without)


@needs_s3
@pytest.mark.slow
def test_another_machine_goes_on_with_a_sweep(
    sweep: SweepCommand, whole_sweep: SweepCommand, in_bucket
) -> None:
    """kill -9 of all of it on a machine that never comes back, the command on another one."""
    flags, variables = in_bucket("one")
    process = sweep.start(*flags, **variables)
    wait_for(process, r"epoch 2/3")
    process.kill()
    process.communicate()
    flags, variables = in_bucket("two")
    output = sweep.run(*flags, **variables)
    assert "started from step" in output
    assert_clean(sweep, trials=2)
    assert sweep.results() == whole_sweep.results()


@pytest.fixture
def two_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The study's folder as two machines see it; waits are short."""
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(lease, "LOOK_SECONDS", 0.6)
    studies = []
    for name in ("one", "two"):
        monkeypatch.setenv(SCRATCH, str(tmp_path / name))
        studies.append(copy_of(f"file://{tmp_path / 'bucket'}") / "study")
    return studies


def test_two_commands_do_not_share_a_study(two_commands) -> None:
    first, second = two_commands
    told = r"another command is at work on study study \(\S+ process"
    with sole_command(first, Console()):
        with pytest.raises(ValueError, match=told), sole_command(second, Console()):
            pass
        with sole_command(second.with_name("other"), Console()):
            pass
    with sole_command(second, Console()):
        pass


def test_the_mark_of_a_killed_command_is_taken_over(two_commands) -> None:
    first, second = two_commands
    locks = lease.kept(first / "locks")
    with sole_command(first, Console()):
        left = locks.read_mark(lease.MARK)
    locks.mark(lease.MARK, left)  # as if it had been killed: nobody renews it
    started = time.monotonic()
    with sole_command(second, Console()):
        assert time.monotonic() - started >= lease.LOOK_SECONDS


def test_a_folder_needs_no_mark(tmp_path: Path) -> None:
    with sole_command(tmp_path / "study", Console()):
        assert not (tmp_path / "study").exists()


def test_a_bucket_needs_a_server_for_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv(SCRATCH, str(tmp_path / "machine"))
    storage = resolve_storage(Path(f"file://{tmp_path / 'bucket'}"))
    assert resolve_storage(storage) == storage
    with pytest.raises(ValueError, match="MLFLOW_TRACKING_URI"):
        tracking_uri(storage)


def test_files_of_runs_lie_beside_the_database_of_a_bucket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in the copy that this machine has of the bucket, which may go."""
    uri = empty_store(tmp_path)
    monkeypatch.setenv(SCRATCH, str(tmp_path / "machine"))
    storage = copy_of(f"file://{tmp_path / 'bucket'}")
    plan = SimpleNamespace(
        tracking_uri=uri,
        storage=storage,
        folder=storage / "study",
        study="study",
        bases={},
        kind="lr sweep",
        axes=("lr",),
    )
    client = _open_tracker(cast("SweepPlan", plan)).client
    location = client.get_experiment_by_name("study").artifact_location
    assert location == (tmp_path / "artifacts" / "study").as_uri()
