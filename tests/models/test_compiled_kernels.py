"""Every Triton kernel of every architecture, compiled at the presets' shapes for GPUs that are not
here: within their shared memory. What each may spill is said by the tests of the kernels."""

from __future__ import annotations

import pytest
from compilation import SHARED_MEMORY, Usage, compile_for

import models
from models.kernels import paths
from sweeps.presets import PRESETS
from trainables.kernel_cache import launches_of
from trainables.spec import TrialSpec

# Triton functions of a training step, by architecture.
FAMILIES = {
    "transformer": {"rms_norm", "rotary", "swiglu", "cross_entropy"},
    "lstm": {"cross_entropy"},
    "xlstm": {
        *("mlstm", "slstm", "depthwise_conv", "block_diagonal", "gated_head_norm"),
        "cross_entropy",
    },
    "mamba": {"rms_norm", "depthwise_conv", "selective_scan", "cross_entropy"},
    "hgrn2": {"rms_norm", "swiglu", "gated_linear_attention", "cross_entropy"},
}

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


def usages(arch: str, preset: str, *capabilities: int) -> list[Usage]:
    launches = launches_of(spec_of(arch, preset), PRESETS[preset].vocab_size, None)
    return compile_for(launches, capabilities)


def assert_fits(usage: Usage) -> None:
    assert usage.shared <= SHARED_MEMORY[usage.capability], usage


@for_each_architecture
def test_a_step_launches_the_kernels_of_its_architecture(arch: str) -> None:
    """Those of the table of paths that the architecture needs, and no other."""
    launches = launches_of(spec_of(arch, "mini"), 512, None)
    found = {launch.module.removeprefix("models.kernels.gpu.") for launch in launches}
    assert {family.split("_backward")[0] for family in found} == FAMILIES[arch]


def test_the_table_names_every_family() -> None:
    """What a step launches stands in the table; the head's losses go by their own names there."""
    named = {kernel.removeprefix("linear_") for kernel in paths.TABLE}
    assert set().union(*FAMILIES.values()) <= named


@for_each_architecture
def test_few_kernels_are_compiled(arch: str) -> None:
    """At most 40 for a trial, forward, backward and validation in float32: under a minute cold."""
    assert len(launches_of(spec_of(arch, "base"), 16_000, None)) <= 40


def test_the_smallest_transformer_compiles() -> None:
    """For an H100; the other architectures, presets and GPUs are among the slow tests."""
    for usage in usages("transformer", "mini", 90):
        assert_fits(usage)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
@for_each_architecture
def test_all_compile_for_all_gpus(arch: str, preset: str) -> None:
    """For an A100, an H100 and a B200, at the batch, context and vocabulary of the preset."""
    for usage in usages(arch, preset, 80, 90, 100):
        assert_fits(usage)
