"""Every Triton kernel of every architecture, compiled at the presets' shapes for GPUs that are not
here: within their shared memory, and without spilled registers where the time goes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from compilation import ROOT, SHARED_MEMORY, assert_fits, compile_for

import models
from sweeps.arguments.presets import PRESETS
from tests.architectures import FACTS, slow_but
from tests.gpu.kernel_cases import CASES
from trainables.launches import TrialWork, launches_of
from trainables.spec import TrialSpec

for_each_architecture = pytest.mark.parametrize("arch", models.architectures())


def spec_of(arch: str, preset: str, precision: str = "bf16") -> TrialSpec:
    """A trial of a preset, but for its corpus."""
    shape = PRESETS[preset]
    return TrialSpec(
        arch=arch,
        size=shape.size,
        corpus="none",
        corpus_hash="none",
        context=shape.context,
        batch_size=shape.batch_size,
        lr=1e-3,
        epochs=1,
        seed=0,
        precision=precision,
    )


GENERATIONS = (80, 90, 100)
"""An A100, an H100 and a B200."""


@for_each_architecture
def test_a_trial_launches_the_kernels_of_its_architecture(arch: str) -> None:
    """Steps and validation take our Triton kernels, and no other."""
    launches = launches_of(TrialWork(spec_of(arch, "mini"), 512))
    modules = {launch.module.removeprefix("models.kernels.gpu.") for launch in launches}
    assert modules == FACTS[arch].triton | {"cross_entropy"}


def test_the_assembler_is_one_that_hopper_can_trust() -> None:
    """ptxas 12.8 mixed up the addresses of products' operands; what Triton takes by itself may be
    that version."""
    from triton.backends.nvidia.compiler import get_ptxas_version

    said = get_ptxas_version(90)
    major, minor = re.search(r"release (\d+)\.(\d+)", said).groups()
    assert (int(major), int(minor)) >= (12, 9), said


@pytest.mark.parametrize("arch", slow_but("mamba"))
def test_few_kernels_are_compiled(arch: str) -> None:
    """At most 48 for a trial, its validation in float32 included: under a minute on few cores."""
    assert len(launches_of(TrialWork(spec_of(arch, "base"), 16_000))) <= 48


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
@for_each_architecture
def test_all_compile_for_all_gpus(arch: str, preset: str) -> None:
    """Training in bf16 and validation, at the batch, context and vocabulary of the preset."""
    launches = launches_of(TrialWork(spec_of(arch, preset), PRESETS[preset].vocab_size))
    for usage in compile_for(launches, GENERATIONS):
        assert_fits(usage)


@pytest.mark.slow
@for_each_architecture
def test_other_steps_compile_for_all_gpus(arch: str, tmp_path: Path) -> None:
    """With dropout, and learning from a teacher, as well; in float32 within shared memory."""
    models.build_config("hgrn2", "mini", vocab_size=16_000, context=512).save_pretrained(tmp_path)
    spec = spec_of(arch, "base")
    pupil = spec.replace(teacher="hgrn2 mini", alpha=0.5, temperature=2.0)
    works = [TrialWork(spec.replace(dropout=0.1), 16_000)]
    works.append(TrialWork(pupil, 16_000, teachers=(tmp_path,)))
    launches = [launch for work in works for launch in launches_of(work)]
    assert any(launch.module.endswith(".distillation") for launch in launches)
    for usage in compile_for(launches, GENERATIONS):
        assert_fits(usage)
    for usage in compile_for(launches_of(TrialWork(spec_of(arch, "base", "fp32"), 16_000)), (80,)):
        assert usage.shared <= SHARED_MEMORY[80], usage


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_cases_of_the_gpu_checks_compile() -> None:
    """Every length, width and option in both types, training, validation and generation: for an
    H100."""
    build_all = "from tests.gpu.building import build_all; raise SystemExit(build_all(90))"
    done = subprocess.run(
        [sys.executable, "-c", build_all],
        env={**os.environ, "TRITON_INTERPRET": "0"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith(f"{len(CASES)} cases")
