"""HGRN2: which implementation computes it, that the kernels give the same model, and its config."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import models
from models import hgrn2
from models.kernels import paths
from models.kernels.gpu import gated_linear_library
from models.kernels.gpu.launch import recording
from tests.models.triton_interpreter import take_triton

CONTEXT = 80


def build() -> hgrn2.HGRN2ForCausalLM:
    torch.manual_seed(0)
    config = models.build_config("hgrn2", "mini", vocab_size=64, context=CONTEXT, pad_token_id=1)
    model = models.build_model(config)
    assert isinstance(model, hgrn2.HGRN2ForCausalLM)
    return model


def results(model: hgrn2.HGRN2ForCausalLM) -> Iterator[Tensor]:
    """Logits of a batch with padding, and the gradients of their square."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(64, (1, CONTEXT), generator=generator)
    mask = torch.ones_like(ids)
    mask[:, :3] = 0
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    yield logits.detach()
    parameters = list(model.parameters())
    yield from torch.autograd.grad(logits.square().mean(), parameters)


@pytest.mark.slow
def test_triton_gives_the_same_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole model, forward and backward, with every kernel in the interpreter."""
    model = build()
    monkeypatch.setenv(paths.VARIABLE, "torch")
    expected = list(results(model))
    take_triton(monkeypatch)
    for got, want in zip(results(model), expected, strict=True):
        scale = want.abs().max().item()
        torch.testing.assert_close(got, want, rtol=0, atol=2e-5 * scale + 1e-9)


def test_a_gpu_gets_our_kernels_in_bf16() -> None:
    """Recorded on fake tensors: under autocast no layer leaves the Triton path, and no kernel is
    compiled twice for the same layer."""
    with FakeTensorMode(), recording() as launches:
        model = build()
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=torch.zeros(2, CONTEXT, dtype=torch.long)).logits
        logits.float().sum().backward()
    recurrences = {launch for launch in launches if "gated_linear" in launch.module}
    assert len(recurrences) == 6
    assert {launch.arguments[1] for launch in recurrences} == {torch.bfloat16}


def test_fla_computes_the_recurrence_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernels get every layer's, with its lower bound but for the first, if they take it."""
    model, seen = build(), []

    def spy(q: Tensor, f: Tensor, v: Tensor, bound: Tensor | None, state: None) -> Any:
        seen.append(bound is not None)
        return torch.zeros_like(v), None

    monkeypatch.setattr(gated_linear_library, "hgrn2_attention", spy)
    ids = torch.zeros(1, CONTEXT, dtype=torch.long)
    model(ids, use_cache=False)
    assert seen == []
    wanted = {("gated_linear_attention", "cpu")}
    monkeypatch.setattr(paths, "uses_library", lambda *which: which in wanted)
    model(ids, use_cache=False)
    assert seen == [False, True, True]
    model.double()(ids, use_cache=False)
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"use_short_conv": True}, "use_short_conv=False only, not for True"),
        ({"attn": {"layers": [0], "num_heads": 2}}, "attn=None only, not for .*layers"),
        ({"hidden_act": "powlu"}, "hidden_act='swish' only, not for 'powlu'"),
        ({"hidden_size": 100}, "hidden_size, 100, is no multiple of expand_ratio, 16"),
        ({"expand_ratio": None}, "needs expand_ratio or num_heads"),
    ],
)
def test_what_is_not_computed_is_refused(fields: dict[str, Any], message: str) -> None:
    """Variants of fla's HGRN2 that would need other layers."""
    with pytest.raises(ValueError, match=message):
        models.build_model(hgrn2.HGRN2Config(**{"hidden_size": 64, "expand_ratio": 16, **fields}))


def test_fields_of_the_config_count() -> None:
    """Heads by their number, the feed-forward width by its ratio, a tied head, no lower bounds."""
    config = hgrn2.HGRN2Config(
        hidden_size=192,
        num_hidden_layers=2,
        num_heads=4,
        expand_ratio=None,
        hidden_ratio=3,
        use_lower_bound=False,
        tie_word_embeddings=True,
        vocab_size=50,
    )
    model: Any = models.build_model(config)
    attention, mlp = model.model.layers[0].attn, model.model.layers[0].mlp
    assert (attention.num_heads, config.expand_ratio) == (4, 48)
    assert mlp.up_proj.out_features == 512  # 2/3 of 3 times 192 is 384
    assert model.lm_head.weight is model.model.embeddings.weight
    assert not any("lower_bounds" in name for name, _ in model.named_parameters())
    assert model(input_ids=torch.zeros(1, 3, dtype=torch.long)).logits.shape == (1, 3, 50)
