"""Tiny models, a word tokenizer and a benchmark folder for the analysis tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from benchmark_files import write_blimp, write_supplement
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<|endoftext|>", "<|pad|>", "<unk>"]
NOUNS = ["cat", "cats", "dog", "dogs"]
VERBS = ["sleeps", "sleep", "sees", "see"]
VOCAB = [*SPECIAL, *NOUNS, *VERBS, "the", "a", "often", ",", ".", "?", "A:", "B:"]


class RecurrentBody(nn.Module):
    """A GRU with Hugging Face's base-model signature."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(VOCAB), 16)
        self.dropout = nn.Dropout(0.5)
        self.rnn = nn.GRU(16, 16, batch_first=True)

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.rnn(self.dropout(self.embed(input_ids)))[0])


class RecurrentLM(nn.Module):
    """The least that scoring asks of a model; without a context limit, and its head has a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(vocab_size=len(VOCAB))
        self.base_model = RecurrentBody()
        self.head = nn.Linear(16, len(VOCAB))

    def get_output_embeddings(self) -> nn.Linear:
        return self.head


def tiny_llama() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(VOCAB),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        attention_dropout=0.5,
    )
    return LlamaForCausalLM(config)


@pytest.fixture(params=[tiny_llama, RecurrentLM], ids=["llama", "recurrent"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return request.param()


@pytest.fixture
def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return tiny_llama()


@pytest.fixture
def make_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    def build(**special_tokens: str) -> PreTrainedTokenizerFast:
        vocabulary = {word: index for index, word in enumerate(VOCAB)}
        backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return PreTrainedTokenizerFast(tokenizer_object=backend, **special_tokens)

    return build


@pytest.fixture
def tokenizer(make_tokenizer: Callable[..., PreTrainedTokenizerFast]) -> PreTrainedTokenizerFast:
    return make_tokenizer(bos_token="<|endoftext|>", eos_token="<|endoftext|>", pad_token="<|pad|>")


@pytest.fixture
def evaluation_data(tmp_path: Path) -> Path:
    """A folder with `blimp_fast` and `supplement_filtered`."""
    write_blimp(tmp_path / "data" / "blimp_fast")
    write_supplement(tmp_path / "data" / "supplement_filtered")
    return tmp_path / "data"
