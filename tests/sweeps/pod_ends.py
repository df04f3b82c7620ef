"""What pods do before they end, on a Ray cluster in a namespace of processes of its own.

unshare --fork --pid --mount-proc --kill-child python -m tests.sweeps.pod_ends FOLDER

The namespace is there because a pod's `pkill` looks at all processes that it sees.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import yaml

from tests.processes import ROOT, wait_for
from tests.sweeps.conftest import SweepCommand
from tests.sweeps.ray_nodes import RayNodes
from tests.tiny_text import write_tiny_text

PATIENCE = 240


def main(folder: Path) -> None:
    """Submit a sweep as the manifest does, end its pods, and print what came of it."""
    (job,) = yaml.safe_load_all((ROOT / "sweeps" / "cluster" / "rayjob.yaml").read_text())
    cluster = job["spec"]["rayClusterSpec"]
    (folder / "text").mkdir()
    write_tiny_text(folder / "text")
    (folder / "r").mkdir()
    nodes = RayNodes(folder / "r", head_cpus=0)
    try:
        nodes.join()
        sweep = SweepCommand(folder / "text", folder / "runs")
        command = ["babysweep", "lr-sweep", *sweep.line("--epochs", "500")[2:]]
        submit = ["ray", "job", "submit", f"--address={nodes.jobs}", "--submission-id=study", "--"]
        submitter = subprocess.Popen(
            [*submit, *command],
            env=nodes.env | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        wait_for(submitter, "epoch 1/500")
        started = time.monotonic()
        worker = subprocess.Popen(_before_end(cluster["workerGroupSpecs"][0]))
        head = subprocess.Popen(_before_end(cluster["headGroupSpec"]))
        head.wait(PATIENCE)
        print(f"head ready after {time.monotonic() - started:.0f} s", flush=True)
        worker.wait(PATIENCE)
        print(f"worker ready after {time.monotonic() - started:.0f} s", flush=True)
        print(submitter.communicate(timeout=PATIENCE)[0], flush=True)
    finally:
        nodes.end()


def _before_end(group: dict[str, dict]) -> list[str]:
    (container,) = group["template"]["spec"]["containers"]
    return container["lifecycle"]["preStop"]["exec"]["command"]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
