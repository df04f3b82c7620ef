"""The CPU paths give what the libraries' own code gives, from the same weights."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.models.mamba import modeling_mamba
from xlstm import xLSTMBlockStack

import models
from models.xlstm import _stack_config

VOCAB, TIME = 64, 20


def build(arch: str) -> Any:
    config = models.build_config(arch, "mini", vocab_size=VOCAB, context=TIME, pad_token_id=1)
    torch.manual_seed(0)
    model = models.build_model(config)
    with torch.no_grad():  # biases and gates that are zero at first should matter too
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def run(module: nn.Module, inputs: Tensor, weight: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Output and gradients of its weighted sum."""
    module.zero_grad()
    output = module(inputs)
    output = output if isinstance(output, Tensor) else output.logits
    (output * weight).sum().backward()
    gradients = {
        name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None
    }
    return output.detach(), gradients


def assert_same(got: tuple, want: tuple, tolerance: float = 2e-5) -> None:
    torch.testing.assert_close(got[0], want[0], rtol=0, atol=tolerance)
    assert got[1].keys() == want[1].keys()
    for name, gradient in want[1].items():
        scale = gradient.abs().max().clamp(min=1)
        error = (got[1][name] - gradient).abs().max() / scale
        assert error < tolerance, f"{name}: {error:.1e}"


def test_mamba_is_that_of_transformers() -> None:
    """Logits and gradients equal those of an untouched copy of transformers' Mamba."""
    spec = importlib.util.find_spec(modeling_mamba.__name__)
    assert spec is not None
    assert spec.loader is not None
    untouched = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(untouched)
    model = build("mamba")
    library = untouched.MambaForCausalLM(model.config)
    library.load_state_dict(model.state_dict())
    ids, weight = torch.randint(0, VOCAB, (2, TIME)), torch.randn(2, TIME, VOCAB)
    assert_same(run(model, ids, weight), run(library, ids, weight))


def test_mamba_leaves_other_devices_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU kernels are chosen by device: a tensor elsewhere reaches the library's function."""
    from models.mamba import _by_device

    route = _by_device(lambda x: "library", lambda x: "cpu")
    assert route(torch.zeros(1)) == "cpu"
    assert route(torch.zeros(1, device="meta")) == "library"


def test_xlstm_is_that_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The block stack's output and gradients equal those of the package's own layers."""
    model = build("xlstm")
    stack = model.model.block_stack
    library = xLSTMBlockStack(_stack_config(model.config))
    library.load_state_dict(stack.state_dict())
    body = lambda x: model.model(inputs_embeds=x).last_hidden_state  # noqa: E731
    monkeypatch.setattr(stack, "forward", body)
    x, weight = torch.randn(2, 2, TIME, model.config.hidden_size)
    assert_same(run(stack, x, weight), run(library, x, weight))


def test_xlstm_is_that_of_the_package_step_by_step() -> None:
    """With a state, token by token or several at once, the hidden states are those of the
    package's recurrent form."""
    model = build("xlstm").eval()
    library = xLSTMBlockStack(_stack_config(model.config)).eval()
    library.load_state_dict(model.model.block_stack.state_dict())
    x = torch.randn(2, TIME, model.config.hidden_size)
    want, library_state = [], None
    got, state = [], None
    with torch.no_grad():
        for token in x.split(1, dim=1):
            output, library_state = library.step(token, library_state)
            want.append(output)
        for tokens in x.split([1, 1, 7, 1, TIME - 10], dim=1):
            outputs = model.model(inputs_embeds=tokens, past_key_values=state, use_cache=True)
            state = outputs.past_key_values
            got.append(outputs.last_hidden_state)
    torch.testing.assert_close(torch.cat(got, 1), torch.cat(want, 1), rtol=0, atol=2e-5)


@pytest.mark.parametrize("time", [5, 70])
def test_hgrn2_is_that_of_fla(time: int, tmp_path: Path) -> None:
    """fla loads our checkpoint strictly, and its Triton kernels, run by Triton's interpreter, give
    our logits and gradients: below and above 64 steps, where fla changes kernels."""
    pytest.importorskip("triton")
    model = build("hgrn2").train()
    model.save_pretrained(tmp_path)
    ids, weight = torch.randint(0, VOCAB, (1, time)), torch.randn(1, time, VOCAB)
    save_file({"input_ids": ids, "weight": weight}, tmp_path / "inputs.safetensors")
    oracle = Path(__file__).with_name("fla_oracle.py")
    paths = [tmp_path, tmp_path / "inputs.safetensors", tmp_path / "outputs.safetensors"]
    subprocess.run([sys.executable, str(oracle), *map(str, paths)], check=True)
    library = load_file(tmp_path / "outputs.safetensors")
    assert_same(run(model, ids, weight), (library.pop("logits"), library))
