"""What holds for all tests: MLflow reports nothing, though some import it before the project;
Triton's kernels run in its interpreter, unless `make test-gpu` says otherwise; and test processes
that run side by side share the cores."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports Triton
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    cores = len(os.sched_getaffinity(0))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // workers)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Folders with the longest modules first, so that the processes end together."""
    folders = ("sweeps", "browser", "trainables", "analysis")
    here = Path(__file__).parent
    place = {name: index for index, name in enumerate(folders)}
    items.sort(key=lambda item: place.get(item.path.relative_to(here).parts[0], len(folders)))
