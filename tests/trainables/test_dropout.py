"""Dropout is the same thing in every architecture, and nothing outside of training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.modeling_layers import GradientCheckpointingLayer

import models
from trainables.dropout import add_dropout
from trainables.memory import recompute_activations
from trainables.objectives import NextTokenObjective
from trainables.step import has_dropout

ALL = pytest.mark.parametrize("arch", models.architectures())


def build(arch: str, rate: float = 0.0) -> Any:
    """A mini model, the same at every call, with dropout at this rate."""
    torch.manual_seed(0)
    model: Any = models.build_model(models.build_config(arch, "mini", vocab_size=64, context=16))
    if rate:
        add_dropout(model, rate)
    return model


def layers_of(model: Any) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]


def ids() -> torch.Tensor:
    return torch.randint(64, (2, 17), generator=torch.Generator().manual_seed(1))


def loss(model: Any, seed: int = 2, *, bf16: bool = False) -> torch.Tensor:
    torch.manual_seed(seed)
    tokens = ids()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        nats: torch.Tensor = NextTokenObjective(model)(tokens[:, :-1], tokens[:, 1:].contiguous())
    return nats


def watch(model: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Input and output of every layer, as its neighbours see them, in the pass that follows."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def note(layer: Any, args: Any, output: Any) -> None:
        stream = next(x for x in args if isinstance(x, torch.Tensor) and x.ndim == 3)
        seen.append((stream, output[0] if isinstance(output, tuple) else output))

    for layer in layers_of(model):
        layer.register_forward_hook(note)
    return seen


@ALL
def test_a_share_of_what_a_layer_adds_is_dropped(arch: str) -> None:
    """At rate 1/2 about half of the numbers that a layer adds (that it puts out, where there is no
    residual) are zero; so are those of the embeddings, of which the rest are doubled."""
    model = build(arch, 0.5).train()
    seen = watch(model)
    embedded = []
    model.get_input_embeddings().register_forward_hook(lambda *call: embedded.append(call[-1]))
    loss(model)
    zeros = (embedded[0] == 0).float().mean().item()
    assert 0.45 < zeros < 0.55
    kept = embedded[0] != 0
    table = model.get_input_embeddings().weight[ids()[:, :-1]]
    torch.testing.assert_close(embedded[0][kept], 2 * table[kept])
    assert len(seen) == model.config.num_hidden_layers
    for layer, (stream, output) in zip(layers_of(model), seen, strict=True):
        residual = getattr(layer, "is_residual", True)
        added = output - stream if residual else output
        assert 0.45 < (added == 0).float().mean().item() < 0.55


@ALL
def test_what_a_layer_says_of_its_residual_is_so(arch: str) -> None:
    """With all weights at zero a layer adds nothing: the output is the input, or else zero."""
    model = build(arch).train()
    for layer in layers_of(model):
        for parameter in layer.parameters():
            torch.nn.init.zeros_(parameter)
    seen = watch(model)
    loss(model)
    assert seen
    for layer, (stream, output) in zip(layers_of(model), seen, strict=True):
        assert stream.abs().max() > 0 or not getattr(layer, "is_residual", True)
        expected = stream if getattr(layer, "is_residual", True) else torch.zeros_like(output)
        assert torch.equal(output, expected)


@ALL
def test_evaluation_has_none(arch: str) -> None:
    """In evaluation mode the model is the one without, and the seed changes nothing."""
    plain = loss(build(arch).eval())
    model = build(arch, 0.3).eval()
    assert torch.equal(loss(model, seed=3), loss(model, seed=4))
    torch.testing.assert_close(loss(model), plain, rtol=1e-6, atol=0)


@ALL
def test_training_follows_the_seed(arch: str) -> None:
    """The same seed draws the same masks, another one draws others; in bf16 it trains, too."""
    model = build(arch, 0.3).train()
    first, again, other = (loss(model, seed).item() for seed in (2, 2, 3))
    assert first == again != other
    assert first != loss(build(arch).train()).item()
    loss(model, bf16=True).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@ALL
def test_activations_computed_twice_are_dropped_alike(arch: str) -> None:
    """Every gradient has the bits that it has otherwise."""
    gradients = []
    for recompute in (False, True):
        model = build(arch, 0.3).train()
        assert has_dropout(model)
        if recompute:
            recompute_activations(model)
        loss(model).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


@ALL
def test_a_saved_model_knows_nothing_of_it(arch: str, tmp_path: Any) -> None:
    """Parameters, files and config are those of a model without."""
    plain, model = build(arch), build(arch, 0.3)
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert model.config.to_dict() == plain.config.to_dict()
    model.save_pretrained(tmp_path)
    assert not has_dropout(models.load(tmp_path))


def test_layers_that_cannot_be_found_are_an_error() -> None:
    """The message says how many there should be, and what a layer has to be."""
    config = LlamaConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=2,
        num_attention_heads=1,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    config.num_hidden_layers = 3
    with pytest.raises(ValueError, match="the 3 layers of LlamaForCausalLM, and finds 2"):
        add_dropout(model, 0.1)


def test_a_layer_of_which_it_is_unknown_what_it_adds_to_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another argument might broadcast to the right shape, and be taken for the hidden states."""
    model = build("transformer")

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return x

    monkeypatch.setattr(type(layers_of(model)[0]), "forward", forward)
    with pytest.raises(ValueError, match="takes x, and neither hidden_states nor hidden"):
        add_dropout(model, 0.1)
