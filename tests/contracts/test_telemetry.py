"""Nothing that MLflow would report leaves this machine, whatever is imported first."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.contracts.import_graph import PACKAGES, ROOT

USERS = {
    "sweeps": "sweeps.running.trials",
    "analysis": "analysis.runs",
    "trainables": "trainables.trial",
}
"""By package that imports MLflow, a module that does."""

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


def test_all_that_import_mlflow_are_known():
    """No other package does."""
    importing = re.compile(r"^\s*(from|import) mlflow\b", re.MULTILINE)
    for package in PACKAGES:
        files = (ROOT / package).rglob("*.py")
        imports = any(importing.search(file.read_text()) for file in files)
        assert imports == (package in USERS), package


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(module, marks=pytest.mark.slow if package == "trainables" else [])
        for package, module in USERS.items()
    ],
)
def test_telemetry_is_off_before_mlflow_is_imported(module):
    """When any module of a package imports MLflow first, its package has set the variable."""
    done = run(CODE, module)
    assert done.returncode == 0, done.stderr


def test_mlflow_has_no_client_that_reports():
    """The variable is the one that MLflow reads."""
    done = run(CLIENT)
    assert done.returncode == 0, done.stderr
