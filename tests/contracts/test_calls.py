"""What a model is called with is either taken into account or refused, for every architecture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import models

VOCAB, TIME = 64, 12


@pytest.fixture(scope="module", params=models.architectures())
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    config = models.build_config(
        request.param, "mini", vocab_size=VOCAB, context=64, pad_token_id=1
    )
    return models.build_model(config).eval()


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(2, VOCAB, (2, TIME), generator=torch.Generator().manual_seed(0))


def state_of(outputs: Any) -> tuple[str, Any]:
    name = "cache_params" if "cache_params" in outputs else "past_key_values"
    return name, outputs[name]


@torch.no_grad()
def test_a_state_under_another_models_name_is_refused(model: Any, ids: Tensor) -> None:
    """The error says what it is called here; under that name the text goes on."""
    whole = model(input_ids=ids).logits
    name, state = state_of(model(input_ids=ids[:, :7], use_cache=True))
    (other,) = {"cache_params", "past_key_values"} - {name}
    for called in (model, model.base_model):
        with pytest.raises(ValueError, match=rf"not take the argument {other}: .* is {name} here"):
            called(input_ids=ids[:, 7:], use_cache=True, **{other: state})
    mask = torch.ones_like(ids)  # covers the past, too
    rest = model(input_ids=ids[:, 7:], attention_mask=mask, use_cache=True, **{name: state}).logits
    torch.testing.assert_close(rest, whole[:, 7:], rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("input_id", torch.zeros(2, TIME)),
        ("head_mask", torch.zeros(2)),
        ("token_type_ids", torch.ones(2, TIME)),
        ("encoder_hidden_states", torch.ones(2, 3, 4)),
    ],
)
def test_unknown_arguments_are_refused(model: Any, ids: Tensor, name: str, value: Any) -> None:
    """By the whole model and by its body."""
    for called in (model, model.base_model):
        with pytest.raises(ValueError, match=f"{type(called).__name__} does not take .* {name}"):
            called(input_ids=ids, **{name: value})


@torch.no_grad()
def test_arguments_that_ask_for_nothing_are_taken(model: Any, ids: Tensor) -> None:
    """None, token types of a tokenizer that has but one, and what trainers add."""
    nothing = {"past_key_values": None, "cache_params": None, "head_mask": None}
    types = torch.zeros_like(ids)
    found = model(input_ids=ids, token_type_ids=types, num_items_in_batch=3, **nothing).logits
    assert torch.equal(found, model(input_ids=ids).logits)


@torch.no_grad()
def test_positions_count_or_are_refused(model: Any, ids: Tensor) -> None:
    """Two texts packed into one row are told apart, or not taken."""
    positions = torch.arange(TIME).expand(2, -1) % 6
    if model.config.model_type != "llama":
        with pytest.raises(ValueError, match="position_ids: it reads tokens in their order"):
            model(input_ids=ids, position_ids=positions)
        return
    packed = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    alone = model(input_ids=ids[:, 6:]).logits
    torch.testing.assert_close(packed[:, 6:], alone, rtol=0, atol=1e-4)


@torch.no_grad()
def test_hidden_tokens_between_others_are_left_out_or_refused(model: Any, ids: Tensor) -> None:
    """A change of what the mask hides changes nothing."""
    mask = torch.ones_like(ids)
    mask[:, 4:6] = 0
    if model.config.model_type == "mamba":
        with pytest.raises(ValueError, match="hides tokens between others"):
            model(input_ids=ids, attention_mask=mask)
        return
    other = ids.clone()
    other[:, 4:6] = 3
    first, second = (model(input_ids=x, attention_mask=mask).logits for x in (ids, other))
    torch.testing.assert_close(first[:, 6:], second[:, 6:], rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_mask_that_does_not_cover_the_tokens_is_refused(model: Any, ids: Tensor) -> None:
    """Shape and number of tokens are named."""
    with pytest.raises(ValueError, match=r"mask has shape \(2, 5\).* cover the 12 tokens"):
        model(input_ids=ids, attention_mask=torch.ones(2, 5))
