"""Which kernels are launched by what is done on a GPU, seen with fake tensors."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

import models
from analysis.benchmarks import glue
from analysis.schema.axes import AXES
from models.kernels.gpu.launch import Launch
from tests.architectures import FACTS
from trainables.launches import (
    KERNEL_AXES,
    FinetuningWork,
    ScoringWork,
    TrialWork,
    Work,
    launches_of,
)
from trainables.spec import TrialSpec

SPEC = TrialSpec(
    "hgrn2", "mini", "none", "none", context=64, batch_size=16, lr=1e-3, epochs=1, seed=0
)
OTHERS: dict[str, Any] = {
    "lr": 3e-3,
    "weight_decay": 0.4,
    "dropout": 0.1,
    "batch_size": 8,
    "warmup": 0.2,
    "optimizer": "muon",
    "schedule": "cosine",
}
SETTINGS = glue.settings("2025", "rte")


def config_of(arch: str) -> Any:
    return models.build_config(arch, "mini", vocab_size=300, context=64)


def modules_of(work: Work) -> set[str]:
    return {each.module.removeprefix("models.kernels.gpu.") for each in launches_of(work)}


@pytest.mark.parametrize("arch", models.architectures())
def test_scoring_and_fine_tuning_launch_the_bodys_kernels(arch: str) -> None:
    """Those of a trial but for its loss; scoring those of the forward pass alone."""
    tuned = FinetuningWork(config_of(arch), SETTINGS, "bf16")
    scored = ScoringWork(config_of(arch), "fp32")
    assert modules_of(tuned) == FACTS[arch].triton
    assert modules_of(scored) <= FACTS[arch].triton
    assert len(launches_of(ScoringWork(config_of(arch), "bf16"))) >= len(launches_of(scored))


@pytest.mark.parametrize("name", AXES)
def test_axes_that_change_the_launches_are_known(name: str) -> None:
    """Of every axis another value makes another work, or the same one."""
    other = SPEC.replace(**{name: OTHERS[name]})
    assert (TrialWork(other, 300).key != TrialWork(SPEC, 300).key) == (name in KERNEL_AXES)


def test_what_launches_the_same_is_one_work() -> None:
    """Trials of other seeds and rates of dropout, tasks of other learning rates; not those of other
    lengths, models or precision."""
    wet = SPEC.replace(dropout=0.1)
    assert TrialWork(wet, 300).key == TrialWork(SPEC.replace(dropout=0.3, seed=1), 300).key
    tuned = FinetuningWork(config_of("lstm"), SETTINGS, "bf16")
    warmer = dataclasses.replace(SETTINGS, lr=2 * SETTINGS.lr, seed=SETTINGS.seed + 1)
    assert dataclasses.replace(tuned, settings=warmer).key == tuned.key
    shorter = dataclasses.replace(SETTINGS, max_length=SETTINGS.max_length // 2)
    others = {"settings": shorter, "config": config_of("mamba"), "precision": "fp32"}
    for name, value in others.items():
        assert dataclasses.replace(tuned, **{name: value}).key != tuned.key


def test_what_is_compiled_the_same_is_one_kernel() -> None:
    """Triton tells 1, multiples of 16 and numbers of 64 bits from others, and types."""

    def kernel(*arguments: Any) -> Launch:
        return Launch("module", "name", arguments, (), 4, 2).kernel

    assert kernel(17, 0.5, None, torch.float32) == kernel(31, 2.5, None, torch.float32)
    assert kernel(32) == kernel(0) == kernel(48)
    assert kernel(2**31) == kernel(2**31 + 16)
    others = [1, 15, 16, 2**31, 2**31 + 1, 0.5, None, torch.float32, torch.bfloat16]
    assert len({kernel(each) for each in others}) == len(others)


def test_models_of_others_are_told_apart() -> None:
    """They launch no kernels of this project, and may be of any code of transformers'."""
    from transformers import GPT2Config, LlamaConfig

    assert [models.is_own(config) for config in (GPT2Config(), LlamaConfig())] == [False, True]
