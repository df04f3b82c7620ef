"""The CPU paths give what the libraries' own code gives, from the same weights."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from transformers.models.llama import modeling_llama
from transformers.models.mamba import modeling_mamba
from xlstm import xLSTMBlockStack

import models
from models import hgrn2
from models.kernels import paths
from models.kernels.gated_linear_attention import hgrn2_attention_reference
from models.xlstm import _stack_config

VOCAB, TIME = 64, 20


def build(arch: str, context: int = TIME) -> Any:
    config = models.build_config(arch, "mini", vocab_size=VOCAB, context=context, pad_token_id=1)
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


@pytest.mark.parametrize("time", [3, 70])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_llama_is_that_of_transformers(path: str, time: int, kv_heads: int) -> None:
    """Logits and gradients equal those of transformers' own layers with the attention that
    is spelt out, for any grouping of heads."""
    config = models.build_config("transformer", "mini", vocab_size=VOCAB, context=TIME)
    config.num_key_value_heads, config.use_cache = kv_heads, False
    model = models.build_model(config)
    library = modeling_llama.LlamaForCausalLM(copy.deepcopy(config))
    library.set_attn_implementation("eager")
    library.load_state_dict(model.state_dict())
    ids, weight = torch.randint(0, VOCAB, (2, time)), torch.randn(2, time, VOCAB)
    assert_same(run(model, ids, weight), run(library, ids, weight))


PADDED = torch.arange(TIME).repeat(2, 1) >= torch.tensor([[0], [5]])


@pytest.mark.parametrize("options", [{"use_cache": True}, {"attention_mask": PADDED.long()}])
def test_llama_leaves_caches_and_masks_to_transformers(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only whole sequences without padding reach the kernel."""
    monkeypatch.setattr("models.transformer.causal_attention", _gpu_only)
    model = build("transformer")
    model(torch.randint(0, VOCAB, (2, TIME)), **options)
    with pytest.raises(AssertionError, match="another device"):
        model(torch.randint(0, VOCAB, (2, TIME)), use_cache=False)


def test_llama_elsewhere_may_be_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """On another device no kernel of ours runs if the library's are wanted."""
    monkeypatch.setenv(paths.VARIABLE, "library")
    for kernel in (
        *("any_device.norm", "transformer.add_norm", "transformer.swiglu"),
        "transformer.causal_attention",
    ):
        monkeypatch.setattr(f"models.{kernel}", _gpu_only)
    layer = build("transformer").model.layers[0].to("meta")
    with torch.device("meta"):
        tables = torch.empty(2, 1, TIME, layer.self_attn.head_dim)
        x = torch.empty(2, TIME, layer.hidden_size)
        assert layer(x, position_embeddings=tuple(tables)).shape == x.shape


@pytest.mark.parametrize("time", [3, 70])
def test_mamba_is_that_of_transformers(path: str, time: int) -> None:
    """Logits and gradients equal those of transformers' own layers."""
    model = build("mamba").train()
    library = modeling_mamba.MambaForCausalLM(model.config)
    library.load_state_dict(model.state_dict())
    ids, weight = torch.randint(0, VOCAB, (2, time)), torch.randn(2, time, VOCAB)
    assert_same(run(model, ids, weight), run(library, ids, weight))


@pytest.mark.parametrize("state_size", [8, 12])
def test_mamba_continues_like_transformers(path: str, state_size: int) -> None:
    """A padded batch leaves the same cache, with which single tokens give the same logits."""
    config = models.build_config("mamba", "mini", vocab_size=VOCAB, context=TIME)
    config.state_size = state_size
    model = models.build_model(config).eval()
    library = modeling_mamba.MambaForCausalLM(config).eval()
    library.load_state_dict(model.state_dict())
    ids, mask = torch.randint(0, VOCAB, (2, TIME)), torch.ones(2, TIME, dtype=torch.long)
    mask[0, :7] = 0
    with torch.no_grad():
        got = model(input_ids=ids, attention_mask=mask, use_cache=True)
        want = library(input_ids=ids, attention_mask=mask, use_cache=True)
        for _ in range(3):
            torch.testing.assert_close(got.logits, want.logits, rtol=0, atol=1e-5)
            token = want.logits[:, -1:].argmax(-1)
            got = model(input_ids=token, cache_params=got.cache_params, use_cache=True)
            want = library(input_ids=token, cache_params=want.cache_params, use_cache=True)


def test_mamba_on_a_cpu_reaches_no_gpu_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where mamba-ssm and causal-conv1d are installed, transformers binds their functions for
    every device: a model on the CPU trains, scores and generates without any of them."""
    for name in MAMBA_KERNELS:
        monkeypatch.setattr(modeling_mamba, name, _gpu_only)
    model = build("mamba").train()
    ids = torch.randint(0, VOCAB, (2, TIME))
    model(input_ids=ids).logits.sum().backward()
    text = model.eval().generate(ids, max_new_tokens=3, do_sample=False, eos_token_id=None)
    assert text.shape == (2, TIME + 3)
    assert model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.isfinite().all()


MAMBA_KERNELS = (
    "mamba_inner_fn",
    "mamba_selective_scan",
    "mamba_selective_state_update",
    "causal_conv1d_fn",
    "causal_conv1d_update",
)


def _gpu_only(*_: Any, **__: Any) -> Any:
    raise AssertionError("a kernel for another device was called")


@pytest.mark.parametrize("time", [TIME, 150])
def test_xlstm_is_that_of_the_package(
    path: str, time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block stack's output and gradients equal those of the package's own layers."""
    model = build("xlstm", context=time)
    stack = model.model.block_stack
    library = xLSTMBlockStack(_stack_config(model.config))
    library.load_state_dict(stack.state_dict())
    body = lambda x: model.model(inputs_embeds=x).last_hidden_state  # noqa: E731
    monkeypatch.setattr(stack, "forward", body)
    x, weight = torch.randn(2, 2, time, model.config.hidden_size)
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


@pytest.mark.parametrize("time", [TIME, 70])
def test_xlstm_is_the_packages_recurrence(path: str, time: int) -> None:
    """Logits and gradients of a whole text equal those of the package's stack, one token at a
    time."""
    model = build("xlstm", context=time).train()
    library = xLSTMBlockStack(_stack_config(model.config))
    library.load_state_dict(model.model.block_stack.state_dict())
    ids, weight = torch.randint(0, VOCAB, (2, time)), torch.randn(2, time, VOCAB)
    _, gradients = got = run(model, ids, weight)
    outputs: list[Tensor] = []
    state: Any = None
    for token in model.model.embeddings(ids).detach().split(1, dim=1):
        # The package writes into its convolution states, which autograd may have saved.
        output, state = library.step(token, tree_map_only(Tensor, torch.clone, state))
        outputs.append(output)
    logits = model.lm_head(torch.cat(outputs, 1))
    (logits * weight).sum().backward()
    prefix = "model.block_stack."
    blocks = {name.removeprefix(prefix): x for name, x in gradients.items() if prefix in name}
    want = {name: x.grad for name, x in library.named_parameters()}
    assert_same((got[0], blocks), (logits.detach(), want), 1e-4)


@pytest.mark.interpreter
@pytest.mark.parametrize("time", [5, *(pytest.param(t, marks=pytest.mark.slow) for t in (48, 96))])
def test_hgrn2_is_that_of_fla(time: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fla has our default config and, from one seed, our first weights. It loads our checkpoint
    strictly, and its Triton kernels, run by Triton's interpreter, give our logits and gradients,
    with and without C++: below and above 64 steps, where fla changes kernels."""
    pytest.importorskip("triton")
    model = build("hgrn2").train()
    model.save_pretrained(tmp_path)
    ids, weight = torch.randint(0, VOCAB, (1, time)), torch.randn(1, time, VOCAB)
    recurrence = bounded_inputs(time)
    inputs = {"input_ids": ids, "weight": weight, **recurrence}
    save_file(inputs, tmp_path / "inputs.safetensors")
    command = [sys.executable, "-m", "tests.models.fla_oracle", str(tmp_path)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])

    assert hgrn2.HGRN2Config().to_dict() == fla_defaults(tmp_path)
    torch.manual_seed(0)
    first = models.build_model(model.config).state_dict()
    fla_first = load_file(tmp_path / "first.safetensors")
    assert fla_first.keys() == first.keys()
    assert all(torch.equal(fla_first[name], tensor) for name, tensor in first.items())
    assert_close(load_file(tmp_path / "recurrence.safetensors"), recurrence_results(recurrence))
    library = load_file(tmp_path / "outputs.safetensors")
    for cpp in ("0", "1"):
        monkeypatch.setenv("BABYSWEEP_CPP", cpp)
        logits, gradients = run(model, ids, weight)
        assert_close({"logits": logits, **gradients}, library)


def bounded_inputs(time: int) -> dict[str, Tensor]:
    """Of HGRN2's recurrence, behind a state: one sequence, two heads, 16 keys and 8 values."""
    q, f = torch.randn(2, 1, time, 2, 16)
    v, output_weight = torch.randn(2, 1, time, 2, 8)
    bound, state = 0.1 + 0.8 * torch.rand(32), torch.randn(1, 2, 16, 8)
    names = ("q", "f", "v", "lower_bound", "initial_state", "output_weight")
    return dict(zip(names, (q, f, v, bound, state, output_weight), strict=True))


def recurrence_results(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Output, last state and gradients by the reference in float64, under the oracle's names."""
    leaves = {name: inputs[name].requires_grad_() for name in ("q", "f", "v", "lower_bound")}
    o, end = hgrn2_attention_reference(*leaves.values(), initial_state=inputs["initial_state"])
    gradients = torch.autograd.grad((o * inputs["output_weight"]).sum(), list(leaves.values()))
    named = {f"d{name}": x for name, x in zip(leaves, gradients, strict=True)}
    return {"o": o.detach(), "end": end.detach(), **named}


def fla_defaults(folder: Path) -> dict[str, Any]:
    """fla's default config; JSON has made strings of whole-number keys."""
    found = json.loads((folder / "defaults.json").read_text())
    return {**found, "id2label": {int(key): x for key, x in found["id2label"].items()}}


def assert_close(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    """Tensors of the same names differ by less than 2e-5 of the largest number of each."""
    assert got.keys() == want.keys()
    for name, tensor in got.items():
        error = (tensor - want[name]).abs().max() / want[name].abs().max()
        assert error < 2e-5, f"{name}: {error:.1e}"
