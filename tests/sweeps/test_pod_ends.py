"""A KubeRay job whose pods are to end: see `pod_ends`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile

import pytest

from tests.processes import ROOT

UNSHARE = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"]


@pytest.fixture(scope="module", autouse=True)
def namespaces() -> None:
    """A namespace of processes, which not everybody may make."""
    if not shutil.which("unshare") or subprocess.run([*UNSHARE, "true"], check=False).returncode:
        pytest.skip("this is not root, or has no unshare")


@pytest.mark.slow
def test_trials_write_checkpoints_before_pods_end() -> None:
    """The command ends with a status by which KubeRay runs it again, and pods wait no longer."""
    with tempfile.TemporaryDirectory(prefix="p") as folder:  # short: sockets lie in it
        done = subprocess.run(
            [*UNSHARE, sys.executable, "-m", "tests.sweeps.pod_ends", folder],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=550,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 trials will go on from a checkpoint" in done.stdout
    assert "Job 'study' failed" in done.stdout
    assert "head ready" in done.stdout
    assert "worker ready" in done.stdout
