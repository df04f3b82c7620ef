"""Every command ends in good order from its first moment on, whichever signal ends it."""

from __future__ import annotations

import contextlib
import importlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from analysis import comparison
from analysis.arguments import CompareArgs, ReportArgs
from analysis.reporting import writing
from analysis.signals import ENDING, EXIT_INTERRUPTED
from sweeps import cli
from sweeps.arguments import ExportArgs, PaperArgs, PromoteArgs
from sweeps.export import run_export
from sweeps.plans import paper, promote
from sweeps.promote import run_promotion
from sweeps.running import export as exports
from sweeps.running import stages
from tests.processes import ROOT, environment

SCRIPTS = [*cli.COMMANDS.values(), "sweeps.cli"]

SIGNALLED = """
import runpy, signal, sys

number, trigger, script, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = script

class Finder:
    def find_spec(name, path=None, target=None):
        if name == trigger:
            signal.raise_signal(int(number))

sys.meta_path.insert(0, Finder)
runpy.run_path(script, run_name="__main__")
"""
"""Runs a script, with a signal when it imports this module."""

TWICE = """
import signal, subprocess
from analysis.signals import ending_on_signals

print(subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL).pid, flush=True)
with ending_on_signals():
    try:
        signal.raise_signal(signal.SIGTERM)
    except KeyboardInterrupt:
        pass
    signal.raise_signal(signal.SIGHUP)
print("second")
"""


def signalled(number: int, trigger: str, module: str, *words: str) -> tuple[int, str]:
    """The status of a command that gets a signal, and what it says."""
    script = str(ROOT / f"{module.replace('.', '/')}.py")
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, str(number), trigger, script, *words],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )
    return done.returncode, (done.stdout + done.stderr).strip()


@pytest.mark.parametrize("module", SCRIPTS)
def test_a_signal_in_the_first_imports(module: str) -> None:
    """Where the flags are still unknown: a word and status 130, no traceback."""
    assert signalled(signal.SIGINT, "tyro", module, "--help") == (EXIT_INTERRUPTED, "Stopped.")


@pytest.mark.parametrize("number", ENDING)
def test_each_signal_in_the_first_imports(number: int) -> None:
    """Is like Ctrl-C."""
    answer = signalled(number, "analysis.command_line", "sweeps.lr_sweep", "--arch", "lstm")
    assert answer == (EXIT_INTERRUPTED, "Stopped.")


@pytest.mark.parametrize(
    ("words", "trigger"),
    [
        ("sweeps.lr_sweep --arch lstm", "numpy"),
        ("sweeps.paper", "numpy"),
        ("sweeps.promote --arch lstm", "mlflow"),
        ("sweeps.cli evaluate --model gpt2 --benchmarks hub", "ray"),
        ("analysis.report", "numpy"),
        ("analysis.compare a b", "numpy"),
    ],
)
def test_a_signal_in_the_imports_that_take_long(words: str, trigger: str) -> None:
    """That they begin is said at once. Libraries catch what they should not: the process ends."""
    module, *rest = words.split()
    status, said = signalled(signal.SIGTERM, trigger, module, *rest)
    assert status == EXIT_INTERRUPTED
    assert said.split("\n") == ["Loading libraries ...", "", "Stopped."]


def test_a_second_signal_ends_at_once() -> None:
    """Whatever the first one is still waited for, and with all that the command has started."""
    done = subprocess.run(
        [sys.executable, "-c", TWICE], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == EXIT_INTERRUPTED
    assert done.stderr.strip() == "Stopping; a second signal ends at once."  # said by the first
    (child,) = map(int, done.stdout.split())
    with contextlib.suppress(psutil.NoSuchProcess):
        assert psutil.Process(child).status() == psutil.STATUS_ZOMBIE  # killed, and nobody asked


@pytest.fixture(params=ENDING)
def ending(request: pytest.FixtureRequest) -> Iterator[int]:
    """A signal that ends commands; nobody is there to handle it but the command."""

    def unhandled(number: int, frame: object) -> None:
        raise AssertionError(f"signal {number} met no handler of the command")

    before = signal.signal(request.param, unhandled)
    yield request.param
    signal.signal(request.param, before)


@pytest.mark.parametrize(
    ("module", "name", "run", "args"),
    [
        (promote, "plan_promotion", run_promotion, PromoteArgs(arch="lstm")),
        (exports, "plan_export", run_export, ExportArgs(model="x", folder=Path("y"))),
        (writing, "write_report", writing.run_report, ReportArgs()),
        (comparison, "compare_runs", comparison.run_comparison, CompareArgs(first="a", second="b")),
    ],
)
def test_commands_without_ray(
    module: ModuleType,
    name: str,
    run: Any,
    args: Any,
    ending: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All of them end as by Ctrl-C: what they have open is closed."""
    monkeypatch.setattr(module, name, lambda *args: signal.raise_signal(ending))
    with pytest.raises(KeyboardInterrupt):
        run(args)


def test_the_whole_study(
    ending: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also before and between its stages, and with the way to go on."""
    monkeypatch.setattr(paper, "prepare", lambda *args: signal.raise_signal(ending))
    run = stages.Commands(*[lambda args: 0] * 5)
    assert stages.run_study(PaperArgs(), run) == EXIT_INTERRUPTED
    assert "Stopped. To continue, run it again:" in capsys.readouterr().out


def test_interrupted_commands_have_a_status(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script turns what a command leaves open into status 130."""
    signals = importlib.import_module("analysis.signals")
    monkeypatch.setattr(signals, "_install", lambda handler: None)

    def main() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "main", main)
    with pytest.raises(SystemExit) as ended:
        cli.run()
    assert ended.value.code == EXIT_INTERRUPTED
