"""Protocols: how text becomes tokens, and which of them are scored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast, tokenization_utils_base

from analysis.benchmarks import Encoder, Span

MakeTokenizer = Callable[..., PreTrainedTokenizerFast]


def encode(tokenizer: PreTrainedTokenizerFast, protocol: str, text: str) -> tuple[list[str], int]:
    (span,) = Encoder(tokenizer, protocol).spans([("", text)], ["name"])
    assert span.start == 1
    return [str(tokenizer.convert_ids_to_tokens(token)) for token in span.ids], span.stop


def test_protocol_2024_conditions_on_bos_else_eos_else_pad(make_tokenizer: MakeTokenizer) -> None:
    """The first of BOS, EOS and pad that exists precedes the text, which is scored in full."""
    bos, eos, pad = {"bos_token": "A:"}, {"eos_token": "<|endoftext|>"}, {"pad_token": "<|pad|>"}
    for special, first in [
        ({**bos, **eos, **pad}, "A:"),
        ({**eos, **pad}, "<|endoftext|>"),
        (pad, "<|pad|>"),
    ]:
        tokens, stop = encode(make_tokenizer(**special), "2024", "the cat")
        assert tokens == [first, "the", "cat"]
        assert stop == 3


def test_protocol_2024_puts_one_space_before_the_text() -> None:
    """The tokenizer is given the text with a leading space, and asked for no special tokens."""
    seen = []

    class Recorder:
        bos_token_id, eos_token_id, pad_token_id = 7, None, None

        def __call__(self, texts: list[str], **kwargs: bool) -> dict[str, list[list[int]]]:
            seen.append((texts, kwargs))
            return {"input_ids": [[1, 2] for _ in texts]}

    (span,) = Encoder(Recorder(), "2024").spans([("", "the cat")], [""])
    assert seen == [([" the cat"], {"verbose": False, "add_special_tokens": False})]
    assert span.ids == (7, 1, 2)


def test_a_long_text_is_no_matter_of_the_tokenizer(
    make_tokenizer: MakeTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It encodes all of it, and its library prints no warning among a command's lines."""
    told: list[Any] = []
    monkeypatch.setattr(tokenization_utils_base.logger, "warning", lambda *said: told.append(said))
    tokenizer = make_tokenizer(bos_token="<|endoftext|>", model_max_length=2)
    (span,) = Encoder(tokenizer, "2025").spans([("", "the cat the cat")], ["name"])
    assert len(span.ids) == 4
    assert not told


def test_protocol_2024_without_special_tokens_is_an_error(make_tokenizer: MakeTokenizer) -> None:
    """A tokenizer with nothing to condition on is refused with a way out."""
    with pytest.raises(ValueError, match="BOS, EOS or pad token.*use protocol 2025"):
        Encoder(make_tokenizer(), "2024").spans([("", "the cat")], [""])


def test_protocol_2025_takes_the_text_as_it_is(make_tokenizer: MakeTokenizer) -> None:
    """No BOS is forced, so the first token is only context."""
    tokenizer = make_tokenizer(bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    assert encode(tokenizer, "2025", "the cat sleeps") == (["the", "cat", "sleeps"], 3)


def test_protocol_2025_keeps_the_tokenizers_own_bos_and_scores_no_eos(
    make_tokenizer: MakeTokenizer,
) -> None:
    """A tokenizer's own BOS conditions the first token; its own EOS is not scored."""
    tokenizer = make_tokenizer(bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    template = TemplateProcessing(
        single="<|endoftext|> $A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)]
    )
    tokenizer.backend_tokenizer.post_processor = template
    tokens, stop = encode(tokenizer, "2025", "the cat")
    assert tokens == ["<|endoftext|>", "the", "cat", "<|endoftext|>"]
    assert stop == 3


@pytest.mark.parametrize("protocol", ["2024", "2025"])
def test_a_tokenizer_that_has_no_token_for_a_text(protocol: str) -> None:
    """It has no unknown token either: that is said, and which tokenizer is wanted."""
    library = Tokenizer(WordLevel({"<s>": 0, "the": 1}, unk_token="?"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=library, bos_token="<s>")
    for texts in ([("", "zebra")], [("the", " zebra")]):
        with pytest.raises(ValueError, match=r"no token for .* put the model's own tokenizer"):
            Encoder(tokenizer, protocol).spans(texts, ["name"])


def test_unknown_protocol_is_an_error(tokenizer: PreTrainedTokenizerFast) -> None:
    """The message lists the protocols there are."""
    with pytest.raises(ValueError, match="unknown protocol '2023': choose from 2024, 2025"):
        Encoder(tokenizer, "2023")


@pytest.mark.parametrize("protocol", ["2024", "2025"])
def test_only_what_follows_a_context_is_scored(tokenizer, protocol: str) -> None:
    """The option's tokens are scored, each given the context; neither gets a BOS of ours."""
    (span,) = Encoder(tokenizer, protocol).spans([("the cat often", " sees a dog")], ["x"])
    assert tokenizer.convert_ids_to_tokens(span.ids) == ["the", "cat", "often", "sees", "a", "dog"]
    assert (span.start, span.stop) == (3, 6)


def test_space_at_the_end_of_a_context_belongs_to_the_option(tokenizer) -> None:
    """White space is moved as lm-eval does: the scored tokens are the same."""
    encoder = Encoder(tokenizer, "2024")
    one, other = encoder.spans([("the cat ", "sleeps"), ("the cat", " sleeps")], ["", ""])
    assert (one.ids, one.start) == (other.ids, other.start)


def test_a_context_keeps_the_tokenizers_own_bos_under_2025(make_tokenizer: MakeTokenizer) -> None:
    """What the tokenizer puts around texts is around the context and the option together."""
    tokenizer = make_tokenizer(bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    template = TemplateProcessing(
        single="<|endoftext|> $A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)]
    )
    tokenizer.backend_tokenizer.post_processor = template
    (span,) = Encoder(tokenizer, "2025").spans([("the cat", " sleeps")], [""])
    tokens = tokenizer.convert_ids_to_tokens(span.ids)
    assert tokens == ["<|endoftext|>", "the", "cat", "sleeps", "<|endoftext|>"]
    assert (span.start, span.stop) == (3, 4)


def test_spans_stand_in_the_order_of_the_options(tokenizer) -> None:
    """Options with and without context may be mixed."""
    options = [("the", " cat"), ("", "a dog"), ("a", " dog"), ("", "the cat")]
    names = ["first", "second", "third", "fourth"]
    encoder = Encoder(tokenizer, "2024")
    together = encoder.spans(options, names)
    assert [span.name for span in together] == names
    alone: list[Span] = [encoder.spans([option], [""])[0] for option in options]
    assert together == alone
