"""State and padding of the models on `models.causal_lm`, beyond what every architecture must do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

import models
from models.causal_lm import RecurrentForCausalLM, RecurrentState

VOCAB, TIME = 64, 20


def is_recurrent(arch: str) -> bool:
    """Whether the architecture's model is built on `models.causal_lm`."""
    config = models.build_config(arch, "mini", vocab_size=VOCAB, context=TIME)
    return issubclass(AutoModelForCausalLM._model_mapping[type(config)], RecurrentForCausalLM)


pytestmark = pytest.mark.parametrize("arch", filter(is_recurrent, models.architectures()))


def build(arch: str) -> Any:
    config = models.build_config(arch, "mini", vocab_size=VOCAB, context=TIME, pad_token_id=1)
    torch.manual_seed(0)
    model = models.build_model(config).eval()
    with torch.no_grad():  # biases and gates that are zero at first should matter too
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def scattered(ids: Tensor, time: int) -> tuple[Tensor, Tensor]:
    """The rows of `ids` with hidden tokens strewn in up to `time`, and the mask."""
    padded = torch.randint(0, VOCAB, (len(ids), time))
    mask = torch.zeros_like(padded)
    for row, text in enumerate(ids):
        at = torch.randperm(time)[: len(text)].sort().values
        padded[row, at], mask[row, at] = text, 1
    return padded, mask


def assert_same_state(got: RecurrentState, want: RecurrentState) -> None:
    for got_layer, want_layer in zip(got.layers, want.layers, strict=True):
        for got_part, want_part in zip(got_layer, want_layer, strict=True):
            torch.testing.assert_close(got_part, want_part, rtol=0, atol=1e-5)


def test_hidden_tokens_are_absent_wherever_they_are(arch: str) -> None:
    """Hidden tokens before, between and behind the real ones change neither their logits nor the
    state behind them."""
    model = build(arch)
    ids = torch.randint(0, VOCAB, (3, TIME))
    padded, mask = scattered(ids, TIME + 9)
    with torch.no_grad():
        want = model(input_ids=ids)
        got = model(input_ids=padded, attention_mask=mask)
    logits = got.logits[mask.bool()].view_as(want.logits)
    torch.testing.assert_close(logits, want.logits, rtol=0, atol=1e-5)
    assert_same_state(got.past_key_values, want.past_key_values)


def test_a_text_may_come_in_pieces(arch: str) -> None:
    """Several tokens at a time, hidden ones among them, up to pieces that are all hidden for some
    row, end in the logits and the state of the whole."""
    model = build(arch)
    ids = torch.randint(0, VOCAB, (3, TIME))
    padded, mask = scattered(ids, TIME + 15)
    mask[0, :3] = 0  # the first two pieces of this row
    state, logits = None, []
    pieces = [1, 2, 3, 11, TIME + 15 - 17]
    with torch.no_grad():
        whole = model(input_ids=padded, attention_mask=mask)
        for piece, piece_mask in zip(padded.split(pieces, 1), mask.split(pieces, 1), strict=True):
            outputs = model(input_ids=piece, attention_mask=piece_mask, past_key_values=state)
            state = outputs.past_key_values
            logits.append(outputs.logits)
    real = mask.bool()
    torch.testing.assert_close(torch.cat(logits, 1)[real], whole.logits[real], rtol=0, atol=1e-5)
    assert state is not None
    assert state.get_seq_length() == TIME + 15
    assert_same_state(state, whole.past_key_values)


def test_a_state_may_be_used_twice(arch: str) -> None:
    """Going on from a state leaves it as it was, and with gradients on, without any."""
    model = build(arch)
    ids = torch.randint(0, VOCAB, (2, TIME))
    state = model(input_ids=ids[:, :9]).past_key_values
    first, second = (model(input_ids=ids[:, 9:], past_key_values=state).logits for _ in range(2))
    assert torch.equal(first, second)
    assert not any(part.requires_grad for layer in state.layers for part in layer)


def test_generate_goes_on_from_a_state(arch: str) -> None:
    """`generate` takes a state for the tokens that it has read."""
    model = build(arch)
    ids = torch.randint(2, VOCAB, (2, 9))
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    with torch.no_grad():
        state = model(input_ids=ids[:, :6]).past_key_values
    got = model.generate(ids, past_key_values=state, **options)
    assert torch.equal(got, model.generate(ids, **options))


def test_training_keeps_no_state(arch: str) -> None:
    """The default of `use_cache` is the config's in evaluation, and False in training."""
    model, ids = build(arch), torch.randint(0, VOCAB, (2, TIME))
    assert model(input_ids=ids).past_key_values is not None
    assert model(input_ids=ids, use_cache=False).past_key_values is None
    assert model.train()(input_ids=ids).past_key_values is None


def test_wrong_arguments_are_named(arch: str) -> None:
    """A mask that does not cover the tokens, and tokens given twice or not at all."""
    model, ids = build(arch), torch.randint(0, VOCAB, (2, TIME))
    with pytest.raises(ValueError, match=r"attention mask has shape \(2, 5\).*cover the 20"):
        model(input_ids=ids, attention_mask=torch.ones(2, 5))
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model()
