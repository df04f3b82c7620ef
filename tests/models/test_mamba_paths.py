"""Mamba computes with the kernels of this package, whatever else is installed, and never with
transformers' loop over time."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.models.mamba import modeling_mamba

import models
from models.kernels import paths
from models.kernels.depthwise_conv import causal_depthwise_conv
from models.kernels.gpu import mamba_library
from models.kernels.gpu.launch import Launch, recording
from models.kernels.selective_scan import selective_scan, selective_scan_reference

VOCAB, TIME = 64, 9
OURS = {"models.kernels.gpu.selective_scan", "models.kernels.gpu.depthwise_conv"}
LOOPS = (
    "mamba_inner_fn",
    "mamba_selective_scan",
    "mamba_selective_state_update",
    "causal_conv1d_fn",
    "causal_conv1d_update",
)

# Packages as they may be installed: they compute nothing, but count their calls.
WORKING = {
    "mamba_ssm/__init__.py": "",
    "mamba_ssm/ops/__init__.py": "",
    "mamba_ssm/ops/selective_scan_interface.py": """
calls = []
def selective_scan_fn(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state):
    calls.append(u.dtype)
    used = A.sum() + D.sum() + delta_bias.sum() + B.sum() + C.sum()
    return u * delta * z + used.to(u.dtype), u.new_zeros(u.shape[0], *A.shape)
""",
    "causal_conv1d/__init__.py": """
calls = []
def causal_conv1d_fn(x, weight, bias, activation):
    calls.append(x.dtype)
    return (x * weight[:, :1] + bias[:, None]).to(x.dtype)
""",
}
BROKEN = {
    "mamba_ssm/__init__.py": "raise ImportError('scan.so: undefined symbol: _ZN3c10\\nand more')",
    "causal_conv1d/__init__.py": "raise RuntimeError('built for CUDA 11')",
}
BROKEN_LINES = [
    "causal-conv1d is installed but does not import: built for CUDA 11; Triton computes",
    "mamba-ssm is installed but does not import: scan.so: undefined symbol: _ZN3c10; "
    "Triton computes",
]
MISSING_LINES = [
    "causal-conv1d is not installed; Triton computes",
    "mamba-ssm is not installed; Triton computes",
]


@pytest.fixture(autouse=True)
def no_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """All functions of transformers that compute a Mamba layer fail."""
    for name in LOOPS:
        monkeypatch.setattr(modeling_mamba, name, _library_only)
    monkeypatch.setattr(modeling_mamba.MambaMixer, "forward", _library_only)


def _library_only(*_: Any, **__: Any) -> Any:
    raise AssertionError("the library's layer was called")


@pytest.fixture
def packages(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Puts the files given as parameter where Python looks for packages first."""
    for name, text in request.param.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    mamba_library._function.cache_clear()
    for name in _loaded_packages():
        monkeypatch.delitem(sys.modules, name)
    yield
    mamba_library._function.cache_clear()
    for name in _loaded_packages():
        del sys.modules[name]  # for good: these were played


def _loaded_packages() -> list[str]:
    return [name for name in sys.modules if name.split(".")[0] in ("mamba_ssm", "causal_conv1d")]


@pytest.fixture
def cpu_as_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors on the CPU take the paths of a GPU: PyTorch's CPU build has no others."""
    order, uses_library = paths.order, paths.uses_library
    monkeypatch.setattr(paths, "order", lambda kernel, _: order(kernel, "cuda"))
    monkeypatch.setattr(paths, "uses_library", lambda kernel, _: uses_library(kernel, "cuda"))
    monkeypatch.setattr(mamba_library, "DEVICE", "cpu")


def step(dtype: torch.dtype = torch.float32) -> list[Launch]:
    """The Triton launches of a training step, with tensors that have no numbers."""
    with FakeTensorMode(), recording() as launches:
        model = build().train()
        ids = torch.zeros(2, TIME, dtype=torch.long)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            model(input_ids=ids).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    return launches


def build() -> Any:
    config = models.build_config("mamba", "mini", vocab_size=VOCAB, context=TIME)
    return models.build_model(config)


def modules(launches: list[Launch]) -> set[str]:
    return {launch.module for launch in launches}


@pytest.mark.parametrize("choice", ["auto", "torch", "library"])
def test_on_a_cpu(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model trains, generates and scores."""
    monkeypatch.setenv(paths.VARIABLE, choice)
    model = build().train()
    ids = torch.randint(0, VOCAB, (2, TIME))
    model(input_ids=ids).logits.sum().backward()
    text = model.eval().generate(ids, max_new_tokens=3, do_sample=False, eos_token_id=None)
    assert text.shape == (2, TIME + 3)
    assert model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.isfinite().all()


@pytest.mark.parametrize(
    "packages", [{}, BROKEN, WORKING], indirect=True, ids=["none", "bad", "good"]
)
def test_on_a_gpu(packages: None, cpu_as_gpu: None, caplog: pytest.LogCaptureFixture) -> None:
    """Unasked, Triton computes, and nobody looks for the packages."""
    assert modules(step(torch.bfloat16)) >= OURS
    assert not caplog.records
    assert not {"mamba_ssm", "causal_conv1d"} & set(sys.modules)


@pytest.mark.parametrize(
    ("packages", "lines"), [({}, MISSING_LINES), (BROKEN, BROKEN_LINES)], indirect=["packages"]
)
def test_packages_that_are_wanted_and_cannot_be_imported(
    packages: None,
    cpu_as_gpu: None,
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each is named once, with its reason in one line, and Triton computes."""
    monkeypatch.setenv(paths.VARIABLE, "library")
    with caplog.at_level(logging.WARNING, mamba_library.__name__):
        assert modules(step()) >= OURS
        step()
    assert sorted(record.getMessage() for record in caplog.records) == lines


@pytest.mark.parametrize("packages", [WORKING], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packages_that_are_wanted(
    packages: None, cpu_as_gpu: None, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every layer calls them once, in the type that the projections compute in."""
    monkeypatch.setenv(paths.VARIABLE, "library")
    assert not modules(step(dtype)) & OURS
    layers = build().config.num_hidden_layers
    scan = sys.modules["mamba_ssm.ops.selective_scan_interface"]
    assert scan.calls == sys.modules["causal_conv1d"].calls == [dtype] * layers


@pytest.mark.parametrize("choice", ["auto", "torch", "library"])
def test_on_any_other_device(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch computes where nothing else can."""
    monkeypatch.setenv(paths.VARIABLE, choice)
    # This device has none.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    with torch.device("meta"):
        model = build().train()
        logits = model(input_ids=torch.zeros(2, TIME, dtype=torch.long)).logits
        logits.sum().backward()
    assert logits.shape == (2, TIME, VOCAB)


def test_the_scan_of_mamba_ssm_is_called_as_it_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its function, played by our reference, gives what ours gives."""

    def play(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, last=False):
        assert last
        options = {"skip": D, "gate": z, "delta_bias": delta_bias}
        return selective_scan_reference(u, delta, A, B, C, delta_softplus=delta_softplus, **options)

    _pretend(monkeypatch, play)
    u, delta, gate = torch.randn(3, 2, 16, TIME)
    b, c = torch.randn(2, 2, 4, TIME)
    a, (skip, bias) = -torch.rand(16, 4), torch.randn(2, 16)
    options: dict[str, Any] = {"skip": skip, "gate": gate, "delta_bias": bias}
    got = selective_scan(u, delta, a, b, c, delta_softplus=True, **options)
    monkeypatch.undo()
    want = selective_scan(u, delta, a, b, c, delta_softplus=True, **options)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("dim", [16, 10])
def test_the_convolution_of_causal_conv1d_is_called_as_it_wants(
    dim: int, silu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for the other package; it takes channels first, or channels last if their rows are
    aligned."""

    def play(x: Tensor, weight: Tensor, bias: Tensor, activation: str | None) -> Tensor:
        aligned = x.stride(1) == 1 and not (x.stride(0) % 8 or x.stride(2) % 8)
        assert aligned or x.stride(2) == 1
        monkeypatch.undo()
        return causal_depthwise_conv(x.mT, weight, bias, silu=activation == "silu").mT

    _pretend(monkeypatch, play)
    x, weight, bias = (
        torch.randn(2, TIME, 2 * dim)[..., :dim],
        torch.randn(dim, 4),
        torch.randn(dim),
    )
    got = causal_depthwise_conv(x, weight, bias, silu=silu)
    torch.testing.assert_close(got, causal_depthwise_conv(x, weight, bias, silu=silu))


def _pretend(monkeypatch: pytest.MonkeyPatch, function: Any) -> None:
    """That the CPU is a GPU for which a library's function is wanted."""
    monkeypatch.setattr(paths, "uses_library", lambda kernel, device: True)
    monkeypatch.setattr(mamba_library, "_function", lambda *_: function)
    monkeypatch.setattr(mamba_library, "DEVICE", "cpu")
