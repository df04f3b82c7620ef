"""Gated DeltaNet: fla's model and checkpoints, its start, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import models
from models.gated_deltanet import GatedDeltaNetConfig
from models.kernels.gated_delta_rule import gated_delta_rule
from models.sizes import non_embedding_params, shape
from tests.models.test_gated_delta_rule import inputs
from tests.processes import ROOT
from tests.trainables.test_spec import SPEC
from trainables.optim import build_optimizer

VOCAB = 64

# Not by importing it here: that would put its models in the place of ours.
needs_fla = pytest.mark.skipif(find_spec("fla") is None, reason="fla is not installed")


def build(**changes: Any) -> Any:
    """A mini model; the config's fields may be changed."""
    config = models.build_config("gated_deltanet", "mini", vocab_size=VOCAB, context=20)
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    return models.build_model(config)


def ask_fla(how: str, folder: Path, **tensors: Tensor) -> dict[str, Tensor]:
    """What `fla_gated_deltanet.py` makes of these inputs."""
    save_file({n: x.contiguous() for n, x in tensors.items()}, folder / "inputs.safetensors")
    command = [sys.executable, "-m", "tests.models.fla_gated_deltanet", how, str(folder)]
    subprocess.run(command, check=True, cwd=ROOT)
    return load_file(folder / "outputs.safetensors")


@needs_fla
@pytest.mark.slow  # a process that imports fla; the layers below hold it to the same recurrence
def test_the_kernel_is_flas_recurrence(tmp_path: Path) -> None:
    """Output and last state to 1e-5, from a state and over a chunk's end."""
    names = ("q", "k", "v", "g", "beta")
    x, state = inputs(130), torch.randn(2, 3, 16, 24)
    library = ask_fla("recurrence", tmp_path, **dict(zip(names, x, strict=True)), state=state)
    o, last = gated_delta_rule(*x, initial_state=state)
    torch.testing.assert_close(o, library["o"], rtol=0, atol=1e-5)
    torch.testing.assert_close(last, library["state"], rtol=0, atol=1e-5)


GROUPED: dict[str, Any] = {"num_v_heads": 6, "allow_neg_eigval": True, "intermediate_size": None}


@needs_fla
@pytest.mark.parametrize(
    ("how", "time", "changes"),
    [
        pytest.param("naive", 70, {}, marks=pytest.mark.slow),  # a process that imports fla
        pytest.param("naive", 20, GROUPED, marks=pytest.mark.slow),
        pytest.param("interpreter", 5, {}, marks=[pytest.mark.interpreter, pytest.mark.slow]),
        pytest.param("interpreter", 70, {}, marks=[pytest.mark.interpreter, pytest.mark.slow]),
    ],
)
def test_it_is_that_of_fla(how: str, time: int, changes: dict[str, Any], tmp_path: Path) -> None:
    """fla loads our checkpoint strictly and, on its naive recurrence as well as on its Triton
    kernels, gives our logits and gradients; we load what fla saves of it, and it is the same.
    Every field of fla's config is one of ours, with its default."""
    model = build(**changes).train()
    with torch.no_grad():  # gains that are one at first should matter too
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    ids, weight = torch.randint(0, VOCAB, (1, time)), torch.randn(1, time, VOCAB)
    library = ask_fla(how, tmp_path, input_ids=ids, weight=weight)
    logits = model(input_ids=ids, use_cache=False).logits
    (logits * weight).sum().backward()
    got = {"logits": logits.detach(), **{n: p.grad for n, p in model.named_parameters()}}
    assert got.keys() == library.keys()
    for name, want in library.items():
        error = (got[name] - want).abs().max() / want.abs().max()
        assert error < 2e-5, f"{name}: {error:.1e}"
    ours = GatedDeltaNetConfig()
    for name, default in json.loads((tmp_path / "defaults.json").read_text()).items():
        assert getattr(ours, name) == default, name
    again = models.load(tmp_path / "fla")
    assert type(again) is type(model)
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, model.eval()(input_ids=ids).logits)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("use_gate", False),
        ("use_short_conv", False),
        ("hidden_act", "powlu"),
        ("output_gate_activation", "sigmoid"),
        ("attn", {"layers": [0], "num_heads": 4}),
        ("attnres_block_size", 2),
    ],
)
def test_layers_of_another_kind_are_refused(name: str, value: Any) -> None:
    """A checkpoint of fla's that this model does not compute is not half computed."""
    with pytest.raises(ValueError, match=f"{name}=.* only, not .*flash-linear-attention"):
        build(**{name: value})


def test_at_the_papers_size_it_is_as_large_as_mamba() -> None:
    """It is not in the study's table, and so is matched where the others are not."""
    mamba, ours = (non_embedding_params(a, shape(a, "paper")) for a in ("mamba", "gated_deltanet"))
    assert mamba <= ours < 1.02 * mamba


def test_no_write_into_the_stream_drowns_the_embeddings() -> None:
    """Each layer's is at first of the size of what it is added to, at few layers and at many."""
    for size in ("mini", "small"):
        config = models.build_config("gated_deltanet", size, vocab_size=VOCAB, context=32)
        torch.manual_seed(0)
        model = models.build_model(config).eval()
        with torch.no_grad():
            ids = torch.randint(0, VOCAB, (4, 32))
            states = model(ids, output_hidden_states=True).hidden_states
        for before, after in zip(states[:-2], states[1:-1], strict=True):
            assert (after - before).std() < before.std(), size


def test_the_gates_start_as_in_mamba_2() -> None:
    """Rates even in 0 to 16, steps even in the logarithm of 0.001 to 0.1: mean and range, over the
    heads of many models."""
    torch.manual_seed(0)
    config = models.build_config("gated_deltanet", "mini", vocab_size=8, context=8)
    config.num_heads, config.head_dim, config.num_hidden_layers = 2000, 1, 1
    layer = models.build_model(config).model.layers[0].attn
    rates = layer.A_log.exp()
    assert 0 < rates.min() < 0.1
    assert 15.9 < rates.max() <= 16.001
    assert rates.mean().item() == pytest.approx(8, abs=0.4)
    steps = torch.nn.functional.softplus(layer.dt_bias).log10()
    assert -3.001 < steps.min() < -2.99
    assert -1.01 < steps.max() < -0.999
    assert steps.mean().item() == pytest.approx(-2, abs=0.05)


def test_the_output_norm_is_not_shut_at_first() -> None:
    """At every size the recurrence's outputs are far above the eps of the norm behind it, or the
    layer would begin with next to no output."""
    for size in ("mini", "small"):
        config = models.build_config("gated_deltanet", size, vocab_size=VOCAB, context=32)
        config.num_hidden_layers = 1
        torch.manual_seed(0)
        model = models.build_model(config).eval()
        seen: list[Tensor] = []
        model.model.layers[0].attn.o_norm.register_forward_pre_hook(
            lambda _, inputs, seen=seen: seen.append(inputs[0])
        )
        with torch.no_grad():
            model(torch.randint(0, VOCAB, (4, 32)))
        assert seen[0].square().mean(-1).median() > 5 * config.norm_eps, size


def test_gates_and_gains_keep_no_weight_decay() -> None:
    """A_log and dt_bias among them; matrices and convolutions do."""
    model = build()
    optimizer = build_optimizer(model, SPEC.replace(weight_decay=0.3), recordable=False)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        spared = name.endswith(("A_log", "dt_bias", "norm.weight"))
        assert decay[id(parameter)] == (0.0 if spared else 0.3), name


def test_hooks_on_the_projections_are_called() -> None:
    """Products are merged only where nobody listens to a layer; the result is the same."""
    model, ids = build().eval(), torch.randint(0, VOCAB, (2, 9))
    with torch.no_grad():
        want = model(ids).logits
    calls: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    with torch.no_grad():
        got = model(ids).logits
    assert len(calls) == sum(isinstance(m, torch.nn.Linear) for m in model.modules())
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
