"""Kernels are compiled before the trials: for any GPU, on any machine, and once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

BUILD_TWICE = """
import json, sys
from trainables.kernel_cache import build_kernels
from trainables.launches import TrialWork
from trainables.spec import TrialSpec

if __name__ == "__main__":
    spec = TrialSpec(
        "lstm", "mini", "none", "none", context=16, batch_size=4, lr=1e-3, epochs=1, seed=0
    )
    said = []
    first, again, other = (
        build_kernels([TrialWork(s, 300)], said.append, capability=(9, 0))
        for s in (spec, spec.replace(lr=3e-3, seed=1), spec.replace(precision="bf16"))
    )
    json.dump({"said": said, "first": first, "again": again, "other": other}, sys.stdout)
"""


@pytest.mark.slow
def test_kernels_are_built_once(tmp_path: Path) -> None:
    """Processes fill Triton's cache for a GPU that is not here, and say how far they are; for
    another learning rate or seed nothing is left to do, for another precision there is."""
    script = tmp_path / "build_twice.py"
    script.write_text(BUILD_TWICE)
    cache = tmp_path / "cache"
    variables = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        check=True,
    )
    result = json.loads(done.stdout)
    built = int(result["first"].split()[0])
    assert result["first"].startswith(f"{built} kernels built for sm_90 in ")
    assert f"Compiled {built} of {built} kernels for sm_90" in result["said"]
    assert result["again"] == "all kernels were built before"
    assert "kernels built" in result["other"]
    assert len(list(cache.glob("*/*.cubin"))) >= built


BUILD_REPRESENTATIVES = """
import models
from models.kernels.gpu.build import build, compiling_for
from trainables.kernel_cache import cache_folder
from trainables.launches import ScoringWork, launches_of

config = models.build_config("mamba", "mini", vocab_size=300, context=64)
launches = launches_of(ScoringWork(config, "fp32"))
for some in ({launch.kernel for launch in launches}, launches):
    with compiling_for(90):
        for launch in some:
            build(launch)
    print(len(some), len([*cache_folder().glob("*/*.cubin")]))
"""


@pytest.mark.slow
def test_launches_find_the_kernel_that_stands_for_them(tmp_path: Path) -> None:
    """When one of each kind was built, Triton has nothing to compile for all the others."""
    variables = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", BUILD_REPRESENTATIVES],
        env={**os.environ, **variables, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        check=True,
    )
    first, second = (tuple(map(int, line.split())) for line in done.stdout.splitlines())
    assert first[0] < second[0]
    assert 0 < first[1] == second[1]
