"""The Makefile takes paths of all kinds in all its variables."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.store import how_to_browse
from analysis.wording import quoted
from tests.processes import ROOT, wait_for
from tests.shell import ODD_NAMES

TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
STUB = f"""#!{sys.executable}
import sys, time
print(*sys.argv[1:], sep="\\n", flush=True)
print("up", flush=True)
time.sleep(60)
"""
"""In place of `mlflow`: prints its words, and waits."""


ODD = """a 'b' "c" $d `e` % # ż"""
"""Of a folder: what has a meaning for make or a shell."""


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """The variables, each a path that a shell has to be told of in quotes."""
    venv = tmp_path / ODD / "an environment"
    (venv / "bin").mkdir(parents=True)
    stub = venv / "bin" / "mlflow"
    stub.write_text(STUB)
    stub.chmod(0o755)
    (tmp_path / "my study").mkdir()
    return {
        "VENV": str(venv),
        "TOOLS": str(tmp_path / ODD / "more tools"),
        "PYTHON": str(tmp_path / ODD / "python3"),
        "STORAGE": str(tmp_path / "my study"),
    }


def make(target: str, places: dict[str, str], *flags: str) -> list[str]:
    variables = [f"{name}={value}" for name, value in places.items()]
    return ["make", "--no-print-directory", *flags, target, *variables]


@pytest.mark.parametrize("target", TARGETS)
def test_paths_of_all_kinds(target: str, places: dict[str, str]) -> None:
    """Each stands in quotes in the commands that a target runs."""
    done = subprocess.run(
        make(target, places, "--dry-run"), cwd=ROOT, capture_output=True, text=True, check=True
    )
    quoted = {name: place.replace("'", "'\\''") for name, place in places.items()}
    assert f"'{quoted['VENV']}" in done.stdout
    assert not any(place in done.stdout for place in places.values())
    for place in quoted.values():
        assert set(re.findall(f"(.){re.escape(place)}", done.stdout)) <= {"'"}


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


@pytest.mark.parametrize("name", ODD_NAMES)
def test_the_printed_command_serves_the_storage(
    name: str, places: dict[str, str], tmp_path: Path
) -> None:
    """What a sweep prints is typed as it stands; so is a folder's name from beside it."""
    storage = tmp_path / "storages" / name
    storage.mkdir(parents=True)
    printed, _ = how_to_browse(storage)
    venv = places["VENV"]
    others = quoted(f"VENV={venv}", "-f", str(ROOT / "Makefile"), "-o", f"{venv}/installed")
    for line in (printed, f"make ui {quoted(f'STORAGE={name}')}"):
        process = subprocess.Popen(
            ["bash", "-c", f"{line} {others}"],
            cwd=storage.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            said = wait_for(process, "up")
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        assert f"\nsqlite:///{storage}/mlflow.db\n" in said
        assert f"\n{storage}/artifacts\n" in said


def outside_of_make() -> dict[str, str]:
    """The environment of a person, also where `make test` runs these tests: it exports its own."""
    names = ("STORAGE", "MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL")
    return {name: value for name, value in os.environ.items() if name not in names}


def test_the_variable_names_the_storage(places: dict[str, str]) -> None:
    """As a sweep reads it, whatever it has in it; words for a command are the shell's alone."""
    done = subprocess.run(
        make("sweep", {"VENV": places["VENV"], "ARGS": '--study "$X"'}, "--dry-run"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.endswith(' --arch mamba --study "$X"\n')
    done = subprocess.run(
        make("ui", {"VENV": places["VENV"]}, "-o", f"{places['VENV']}/installed"),
        cwd=ROOT,
        env=outside_of_make() | {"BABYSWEEP_STORAGE": "/no$HOME"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("there is no folder '/no$HOME'")


def test_a_storage_that_is_not_there(places: dict[str, str]) -> None:
    places["STORAGE"] += "/none"
    done = subprocess.run(
        make("ui", places, "-o", f"{places['VENV']}/installed"),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith(f"there is no folder '{places['STORAGE']}'")
