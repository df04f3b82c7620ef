"""Every architecture on a GPU: `make test-gpu`. Skipped where there is none.

The checks are those of `checks.py`, which the other tests run on the CPU. Float32 products are
exact here, without TF32: PyTorch's by its defaults and for cuDNN's LSTM by a switch, those of
Triton by an environment variable that is part of its cache key.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import models
from tests.gpu import checks
from tests.tiny_text import write_tiny_text
from trainables.corpus import prepare_corpus

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="no GPU: torch.cuda.is_available() is False"
    ),
]
for_each_architecture = pytest.mark.parametrize("arch", models.architectures())
GPU = "cuda"


@pytest.fixture(scope="module", autouse=True)
def exact_products() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_F32_DEFAULT", "ieee")
        patch.setattr(torch.backends.cudnn, "allow_tf32", False)
        yield


@for_each_architecture
@pytest.mark.parametrize("time", [48, 96])
def test_it_agrees_with_the_cpu(arch: str, time: int) -> None:
    """Logits and loss to 1e-4, gradients to 1e-3, relative to the largest entry of each; below
    and above 64 steps, where fla's HGRN2 changes kernels."""
    checks.check_agreement(arch, GPU, time)


@for_each_architecture
def test_cached_generation_is_the_forward(arch: str) -> None:
    """Logits of the generated tokens are those of one forward over them, to 1e-4."""
    checks.check_generation(arch, GPU)


@for_each_architecture
def test_bf16_trains(arch: str) -> None:
    """The loss is within 1% of float32, and falls."""
    checks.check_bf16(arch, GPU)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@for_each_architecture
def test_two_gpus_have_the_losses_of_one(arch: str, tmp_path: Path) -> None:
    """A trial's steps and validation with DistributedDataParallel, to 1e-4."""
    text, work = tmp_path / "text", tmp_path / "work"
    text.mkdir()
    work.mkdir()
    write_tiny_text(text)
    corpus = prepare_corpus(str(text), vocab_size=280, cache=tmp_path / "cache")
    checks.check_sharing(arch, GPU, corpus.directory, work)


@for_each_architecture
def test_speed(arch: str) -> None:
    """Prints tokens/s, FLOP/s and the share of the GPU's dense bf16 peak; no share is above 1."""
    if arch == "mamba" and importlib.util.find_spec("mamba_ssm") is None:
        pytest.skip("without mamba-ssm's kernels Mamba takes minutes: pip install '.[cuda]'")
    speed = checks.measure_speed(
        arch, GPU, size="base", batch=8, context=512, vocab=16_000, steps=10
    )
    print(f"\n{speed}")
    assert speed.mfu is None or speed.mfu < 1
