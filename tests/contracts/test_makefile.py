"""The Makefile takes paths with spaces in all its variables."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT, wait_for

TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
STUB = f"""#!{sys.executable}
import sys, time
print(*sys.argv[1:], sep="\\n", flush=True)
print("up", flush=True)
time.sleep(60)
"""
"""In place of `mlflow`: prints its words, and waits."""


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """The variables, each a path with spaces."""
    venv = tmp_path / "an environment"
    (venv / "bin").mkdir(parents=True)
    stub = venv / "bin" / "mlflow"
    stub.write_text(STUB)
    stub.chmod(0o755)
    (tmp_path / "my study").mkdir()
    return {
        "VENV": str(venv),
        "TOOLS": str(tmp_path / "more tools"),
        "PYTHON": str(tmp_path / "a python" / "python3"),
        "STORAGE": str(tmp_path / "my study"),
    }


def make(target: str, places: dict[str, str], *flags: str) -> list[str]:
    variables = [f"{name}={value}" for name, value in places.items()]
    return ["make", "--no-print-directory", *flags, target, *variables]


@pytest.mark.parametrize("target", TARGETS)
def test_paths_with_spaces(target: str, places: dict[str, str]) -> None:
    """Each stands in quotes in the commands that a target runs."""
    done = subprocess.run(
        make(target, places, "--dry-run"), cwd=ROOT, capture_output=True, text=True, check=True
    )
    there = [place for place in places.values() if place in done.stdout]
    assert places["VENV"] in there
    for place in there:
        assert set(re.findall(f"(.){re.escape(place)}", done.stdout)) == {'"'}


def test_the_pages_of_a_study(places: dict[str, str]) -> None:
    """`make ui STORAGE='my study'`, as sweeps print it; Ctrl-C ends it without a traceback."""

    process = subprocess.Popen(
        make("ui", places, "-o", f"{places['VENV']}/installed"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    said = wait_for(process, "up")
    storage = places["STORAGE"]
    assert f"sqlite:///{storage}/mlflow.db\n" in said
    assert f"{storage}/artifacts\n" in said
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    rest, _ = process.communicate(timeout=30)
    assert "Traceback" not in rest
    assert "KeyboardInterrupt" not in rest


def test_a_storage_that_is_not_there(places: dict[str, str]) -> None:
    places["STORAGE"] += "/none"
    done = subprocess.run(
        make("ui", places, "-o", f"{places['VENV']}/installed"),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith(f"there is no folder '{places['STORAGE']}'")
