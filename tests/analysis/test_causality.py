"""Models that see later tokens are not scored, whatever they are called; causal ones are."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

import models
from analysis.benchmarks import Span, sequence_log_probs
from analysis.benchmarks.causality import check_causal

VOCAB_SIZE = 96
SPANS = [Span(tuple(range(3, 3 + length))) for length in (2, 5, 20)]
SIZES = {
    **{"vocab_size": VOCAB_SIZE, "hidden_size": 16, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "intermediate_size": 32, "embedding_size": 16},
}


def tiny(name: str, **changes: Any) -> PreTrainedModel:
    """An untrained model of transformers, in which a later token has the least to say."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**SIZES, **changes})
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model


SHORT = (torch.bfloat16, torch.float16)
XLNET = {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32}
XLM = {"emb_dim": 16, "n_layers": 2, "n_heads": 2}
TWO_WAYS = {
    **{
        name: {} for name in ("Bert", "Roberta", "Electra", "RoFormer", "MegatronBert", "Camembert")
    },
    "XLNet": XLNET,
    "XLM": XLM,
}


@pytest.mark.parametrize("name", TWO_WAYS)
def test_models_that_see_later_tokens_are_refused(name: str) -> None:
    """Bidirectional models that `AutoModelForCausalLM` opens, on texts of any length."""
    model = tiny(name, **TWO_WAYS[name])
    for span in SPANS:
        with pytest.raises(ValueError, match="sees later tokens: changing the last token of a"):
            sequence_log_probs(model, [span])
    with pytest.raises(ValueError, match="sees later tokens"):
        sequence_log_probs(model, SPANS)


@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("name", TWO_WAYS)
def test_in_16_bits_too(name: str, dtype: torch.dtype) -> None:
    """Where rounding is larger than what an untrained model's later tokens have to say."""
    model = tiny(name, **TWO_WAYS[name]).to(dtype)
    with pytest.raises(ValueError, match="sees later tokens"):
        sequence_log_probs(model, SPANS[1:])


@pytest.mark.parametrize("dtype", [torch.float32, *SHORT])
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("Bert", {"is_decoder": True}),
        ("Roberta", {"is_decoder": True}),
        ("XLM", {**XLM, "causal": True}),
        ("GPT2", {"n_embd": 16, "n_layer": 2, "n_head": 2}),
        ("Mixtral", {"num_key_value_heads": 2, "num_local_experts": 4}),
        ("OPT", {"ffn_dim": 32, "word_embed_proj_dim": 16}),
    ],
)
def test_causal_models_are_scored(name: str, changes: dict[str, Any], dtype: torch.dtype) -> None:
    """The same classes as decoders, and models of experts, whose sums are rounded differently."""
    model = tiny(name, **changes).to(dtype)
    assert len(sequence_log_probs(model, SPANS)) == len(SPANS)


@pytest.mark.parametrize("arch", models.architectures())
@pytest.mark.parametrize("dtype", [torch.float32, *SHORT])
@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_ours_are_causal(arch: str, scale: float, dtype: torch.dtype) -> None:
    """Weights of a trained model's size, too: recurrences in chunks are causal up to rounding."""
    torch.manual_seed(0)
    config = models.build_config(arch, "mini", vocab_size=VOCAB_SIZE, context=64)
    model = models.build_model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(scale)
    check_causal(model.to(dtype).eval().requires_grad_(False), range(3, 60), VOCAB_SIZE)


class LooksAhead(nn.Module):
    """Adds to each token a little of the next one."""

    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self.table, self.weight = table, table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.table(ids)
        return hidden + 0.05 * hidden.roll(-1, 1)


def test_a_glimpse_of_the_next_token_is_enough() -> None:
    """Only the token before the changed one sees it."""
    model = tiny("GPT2", n_embd=16, n_layer=1, n_head=2)
    model.set_input_embeddings(LooksAhead(model.get_input_embeddings()))
    with pytest.raises(ValueError, match="sees later tokens"):
        sequence_log_probs(model, SPANS[1:])


def pointers(model: PreTrainedModel) -> list[tuple[int, torch.dtype]]:
    return [(each.data_ptr(), each.dtype) for each in (*model.parameters(), *model.buffers())]


@pytest.mark.parametrize("is_decoder", [True, False])
def test_a_model_of_16_bits_stays_one(is_decoder: bool) -> None:
    """Whether it is refused or not: its numbers are those of before, where they were, and what
    is in float32 stays so."""
    model = tiny("Bert", is_decoder=is_decoder).bfloat16().eval().requires_grad_(False)
    model.get_input_embeddings().float()
    before = pointers(model)
    with (
        contextlib.nullcontext() if is_decoder else pytest.raises(ValueError, match="later tokens")
    ):
        check_causal(model, SPANS[-1].ids, VOCAB_SIZE)
    assert pointers(model) == before


def test_a_full_device_hands_the_check_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of 16 bits may fill its GPU: it is checked none the less, and stays where it was."""
    model = tiny("Bert").bfloat16().eval().requires_grad_(False)
    before, forward, calls = pointers(model), model.forward, []

    def full_at_first(**inputs: Any) -> Any:
        calls.append(model.dtype)
        if len(calls) == 1:
            raise torch.OutOfMemoryError
        return forward(**inputs)

    monkeypatch.setattr(model, "forward", full_at_first)
    with pytest.raises(ValueError, match="sees later tokens"):
        check_causal(model, SPANS[-1].ids, VOCAB_SIZE)
    assert set(calls) == {torch.float32}
    assert pointers(model) == before
