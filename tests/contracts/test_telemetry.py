"""Nothing that MLflow would report leaves this machine, whatever is imported first."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_LAZY = re.compile(r"^    from ((?:sweeps|analysis)\.\w+) import \w+  # heavy", re.MULTILINE)
COMMANDS = {
    match.group(1)
    for folder in ("sweeps", "analysis")
    for file in sorted((ROOT / folder).glob("*.py"))
    for match in _LAZY.finditer(file.read_text())
}
WORKERS = {"sweeps.engine.tuning", "trainables.trial"}  # what Ray loads in other processes

CODE = """
import importlib, os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "mlflow":
            os._exit(0 if os.environ.get("MLFLOW_DISABLE_TELEMETRY") == "true" else 1)

sys.meta_path.insert(0, Watch())
importlib.import_module(sys.argv[1])
sys.exit("MLflow was never imported")
"""
CLIENT = "import analysis.runs, mlflow.telemetry as t; assert t.get_telemetry_client() is None"


def run(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, with no help of the environment."""
    hidden = ("MLFLOW_DISABLE_TELEMETRY", "CI", "GITHUB_ACTIONS", "PYTEST_CURRENT_TEST")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_all_commands_are_known():
    """The commands' heavy modules are found by how they are imported."""
    assert len(COMMANDS) >= 6, COMMANDS


@pytest.mark.parametrize("module", sorted(COMMANDS | WORKERS))
def test_telemetry_is_off_before_mlflow_is_imported(module):
    """When a command's or a worker's modules import MLflow first, the variable is set already."""
    done = run(CODE, module)
    assert done.returncode == 0, done.stderr


def test_mlflow_has_no_client_that_reports():
    """The variable is the one that MLflow reads."""
    done = run(CLIENT)
    assert done.returncode == 0, done.stderr
