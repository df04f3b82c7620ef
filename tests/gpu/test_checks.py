"""The GPU's checks themselves, on the CPU: they run, pass what is right, and fail what is not."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import pytest
import torch

import models
from tests.gpu import checks
from tests.tiny_text import write_tiny_text
from trainables.corpus import prepare_corpus
from trainables.peaks import dense_bf16_peak

ARCH = "lstm"  # the fastest


def test_agreement_passes() -> None:
    checks.check_agreement(ARCH, "cpu", 20)


@pytest.mark.parametrize("name", ["logits", "loss", "lm_head.weight"])
@pytest.mark.parametrize("wrong", [1.01, math.nan])
def test_agreement_fails(name: str, wrong: float) -> None:
    """A tensor that is 1% off, or not a number, is found."""
    want = checks.results(checks.build(ARCH), checks.random_ids(2, 20))
    with pytest.raises(AssertionError, match=name):
        checks.assert_agree({**want, name: wrong * want[name]}, want)


def test_generation_passes() -> None:
    checks.check_generation(ARCH, "cpu")


def test_bf16_passes() -> None:
    checks.check_bf16(ARCH, "cpu")


@pytest.mark.slow  # three processes that import everything
def test_sharing_passes(tmp_path: Path) -> None:
    """Two processes on the CPU have the losses of one."""
    text, work = tmp_path / "text", tmp_path / "work"
    text.mkdir()
    work.mkdir()
    write_tiny_text(text)
    corpus = prepare_corpus(str(text), vocab_size=280, cache=tmp_path / "cache")
    checks.check_sharing(ARCH, "cpu", corpus.directory, work)


def test_speed_counts_tokens_and_flops() -> None:
    """FLOP/s are tokens/s times three forward passes; an unknown peak gives no share."""
    speed = checks.measure_speed(ARCH, "cpu", size="mini", batch=2, context=8, vocab=64, steps=1)
    config = models.build_config(ARCH, "mini", vocab_size=64, context=8)
    per_token = speed.flops_per_second / speed.tokens_per_second
    assert per_token == pytest.approx(3 * models.flops_per_token(config, 8))
    assert "no MFU" in str(speed)
    assert "MFU 50.0%" in str(checks.Speed(ARCH, "NVIDIA H200", 1e6, 494.5e12, 989e12))


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("A100-SXM4-40GB", 312e12),  # older drivers leave the maker out
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA A10G", None),
        ("NVIDIA L40", None),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", None),
        ("Tesla V100-SXM2-16GB", None),
    ],
)
def test_peaks_go_by_the_whole_name(name: str, peak: float | None) -> None:
    assert dense_bf16_peak(name) == peak


@pytest.mark.parametrize("arch", ["transformer", "mamba", "hgrn2"])
def test_other_devices_get_the_library(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer that has a path of its own on the CPU hands a tensor elsewhere to its library.

    (The kernels of the LSTM and the xLSTM are PyTorch on any device but the CPU.)
    """
    replaced = importlib.import_module(f"models.{arch}")._ANY_DEVICE
    model, seen = checks.build(arch), []
    for library in replaced:
        monkeypatch.setattr(library, "forward", lambda self, *_, **__: seen.append(type(self)))
    for module in model.modules():
        if type(module) in replaced.values():
            module(torch.zeros(1, 2, model.config.hidden_size, device="meta"))
            assert seen.pop() is type(module)
    assert not seen
