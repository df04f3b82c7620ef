"""Which path a kernel takes: the table, and what overrides it."""

from __future__ import annotations

import pytest
import torch

from models.kernels import native, paths
from models.kernels.gpu import launch
from models.kernels.selective_scan import selective_scan
from models.kernels.swiglu import swiglu

DEFAULTS = {
    ("rms_norm", "cpu"): ("cpp", "torch"),
    ("rms_norm", "cuda"): ("triton", "torch"),
    ("swiglu", "cpu"): ("torch",),
    ("causal_attention", "cuda"): ("torch",),
    ("lstm", "cuda"): ("torch",),
}


@pytest.fixture(autouse=True)
def no_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(paths.VARIABLE, raising=False)
    paths.forget_taken()


@pytest.mark.parametrize(("kernel", "device"), DEFAULTS)
def test_the_table_decides(kernel: str, device: str) -> None:
    assert paths.order(kernel, device) == DEFAULTS[kernel, device]


def test_the_table_is_whole() -> None:
    """Every kernel ends with PyTorch on every device, and names no path that there is not."""
    for kernel, row in paths.TABLE.items():
        assert row.cpu[-1] == row.cuda[-1] == "torch", kernel
        assert {*row.cpu, *row.cuda} <= {"cpp", "triton", "torch"}, kernel


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("kernel", paths.TABLE)
def test_torch_is_for_all(kernel: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(paths.VARIABLE, "torch")
    assert paths.order(kernel, device) == ("torch",)
    assert not native.available("rms_norm")


@pytest.mark.parametrize("kernel", paths.TABLE)
def test_library_is_for_gpus_where_there_is_one(
    kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU and without a library the table holds."""
    before = {device: paths.order(kernel, device) for device in ("cpu", "cuda")}
    assert not paths.uses_library(kernel, "cuda")
    monkeypatch.setenv(paths.VARIABLE, "library")
    assert paths.uses_library(kernel, "cuda") == bool(paths.TABLE[kernel].library)
    assert not paths.uses_library(kernel, "cpu")
    assert paths.order(kernel, "cpu") == before["cpu"]
    assert paths.order(kernel, "cuda")[-len(before["cuda"]) :] == before["cuda"]


def test_triton_needs_a_gpu_or_its_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable, the kernel and both ways out."""
    monkeypatch.setenv(paths.VARIABLE, "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert paths.order("mlstm", "cuda") == ("triton", "torch")
    with pytest.raises(ValueError, match="BABYSWEEP_KERNELS=triton.*mlstm.*unset.*INTERPRET=1"):
        launch.takes("mlstm", torch.zeros(2))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert launch.takes("mlstm", torch.zeros(2))


def test_without_triton_pytorch_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless Triton was insisted on."""
    monkeypatch.setattr(paths, "triton_installed", lambda: False)
    assert paths.order("mlstm", "cuda") == ("torch",)
    monkeypatch.setenv(paths.VARIABLE, "triton")
    with pytest.raises(ValueError, match="pip install triton"):
        paths.order("mlstm", "cuda")


def test_an_unknown_value_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty counts as unset."""
    monkeypatch.setenv(paths.VARIABLE, "")
    assert paths.override() == "auto"
    monkeypatch.setenv(paths.VARIABLE, "cuda")
    with pytest.raises(ValueError, match="auto, library, torch, triton, not 'cuda'"):
        paths.order("mlstm", "cuda")


def test_what_was_taken_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """By kernel, both of two paths; nothing of what is only on record, or of an earlier trial."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv(paths.VARIABLE, "triton")
    x = torch.ones(2, 16)
    with launch.recording():
        launch.takes("mlstm", x)
    assert paths.taken_in_words() == ""
    assert launch.takes("slstm", x)
    assert not launch.takes("slstm", x, fits=False)
    monkeypatch.setenv(paths.VARIABLE, "auto")
    assert not launch.takes("slstm", x)
    assert not native.takes("slstm", x, fits=False)
    swiglu(x, x)
    assert paths.taken_in_words() == "slstm triton and torch, swiglu torch"
    paths.forget_taken()
    assert paths.taken_in_words() == ""


def test_nothing_is_noted_of_parts_that_are_not_taken_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One of which Triton alone would take."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv(paths.VARIABLE, "triton")
    x = torch.ones(2, 16)
    assert not launch.takes_together(("rms_norm", "lstm"), x)
    assert paths.taken_in_words() == ""
    assert launch.takes_together(("rms_norm", "swiglu"), x)
    assert paths.taken_in_words() == "rms_norm triton, swiglu triton"


def test_a_library_that_is_not_there_is_not_what_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was wanted; what did compute is noted."""
    monkeypatch.setattr(paths, "uses_library", lambda kernel, device: True)
    inputs = [torch.ones(1, 16, 3), torch.ones(1, 16, 3), -torch.ones(16, 4)]
    selective_scan(*inputs, torch.ones(1, 4, 3), torch.ones(1, 4, 3))
    assert paths.taken_in_words() in ("selective_scan cpp", "selective_scan torch")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64])
def test_triton_takes_float32_and_bf16_only(dtype: torch.dtype) -> None:
    with launch.recording():
        assert launch.takes("rms_norm", torch.zeros(2))
        assert not launch.takes("rms_norm", torch.zeros(2), torch.zeros(2, dtype=dtype))
        assert not launch.takes("rms_norm", torch.zeros(0))
        assert not launch.takes("rms_norm", torch.zeros(2), fits=False)
