"""Minimal pairs: what is read, how text becomes tokens, what counts as right."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from analysis.benchmarks import Encoder, MinimalPair, MinimalPairs, read_minimal_pairs

MakeTokenizer = Callable[..., PreTrainedTokenizerFast]
GOOD = {"sentence_good": "the cat sleeps", "sentence_bad": "the cat sleep"}


def write(folder: Path, *lines: str, name: str = "task.jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_reads_blimp_and_supplement_lines(tmp_path: Path) -> None:
    """UID, field and term come from the line; without a UID the file's stem is the task."""
    row = {**GOOD, "UID": "agreement", "field": "morphology", "linguistics_term": "agree", "row": 3}
    folder = write(tmp_path / "blimp", json.dumps(row), "", json.dumps(GOOD), name="stem.jsonl")
    assert read_minimal_pairs("blimp", folder).pairs == (
        MinimalPair("agreement", "the cat sleeps", "the cat sleep", "morphology", "agree"),
        MinimalPair("stem", "the cat sleeps", "the cat sleep"),
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"sentence_good": ', r"task.jsonl, line 2: not valid JSON"),
        ("[1]", r"task.jsonl, line 2: expected a JSON object, not list"),
        ('{"sentence_good": "a"}', r"task.jsonl, line 2: field 'sentence_bad' is missing"),
        ('{"sentence_good": "", "sentence_bad": "b"}', r"line 2: field 'sentence_good' is missing"),
        ('{"sentence_good": 3, "sentence_bad": "b"}', r"line 2: .* not a string"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    """An error in a file names the file, the line and the field."""
    with pytest.raises(ValueError, match=message):
        read_minimal_pairs("blimp", write(tmp_path / "blimp", json.dumps(GOOD), line))


def test_empty_files_and_folders_are_errors(tmp_path: Path) -> None:
    """Neither an empty file nor a folder without files passes as a benchmark."""
    with pytest.raises(ValueError, match=r"holds no \*.jsonl file"):
        read_minimal_pairs("blimp", tmp_path)
    with pytest.raises(ValueError, match=r"task.jsonl is empty"):
        read_minimal_pairs("blimp", write(tmp_path / "blimp", "", ""))


def encode(tokenizer: PreTrainedTokenizerFast, protocol: str, text: str) -> tuple[list[str], int]:
    (span,) = Encoder(tokenizer, protocol).texts([text], ["name"])
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

    (span,) = Encoder(Recorder(), "2024").texts(["the cat"], [""])
    assert seen == [([" the cat"], {"add_special_tokens": False})]
    assert span.ids == (7, 1, 2)


def test_protocol_2024_without_special_tokens_is_an_error(make_tokenizer: MakeTokenizer) -> None:
    """A tokenizer with nothing to condition on is refused with a way out."""
    with pytest.raises(ValueError, match="BOS, EOS or pad token.*use protocol 2025"):
        Encoder(make_tokenizer(), "2024").texts(["the cat"], [""])


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


def test_unknown_protocol_is_an_error(tokenizer: PreTrainedTokenizerFast) -> None:
    """The message lists the protocols there are."""
    with pytest.raises(ValueError, match="unknown protocol '2023': choose from 2024, 2025"):
        Encoder(tokenizer, "2023")


@pytest.mark.parametrize(
    ("good", "bad", "value", "finite"),
    [
        (-1.0, -2.0, 1.0, True),
        (-2.0, -1.0, 0.0, True),
        (-1.0, -1.0, 0.5, True),
        (-30.00001, -30.0, 0.5, True),
        (-1.0, -math.inf, 0.0, False),
        (math.nan, -1.0, 0.0, False),
        (math.nan, math.nan, 0.0, False),
    ],
)
def test_grades(good: float, bad: float, value: float, finite: bool) -> None:
    """Right 1, wrong 0, a tie (to rounding) one half, a non-finite score wrong and marked."""
    pairs = MinimalPairs("blimp", (MinimalPair("task", "g", "b", field="syntax"),))
    (outcome,) = pairs.grade([good, bad])
    assert (outcome.task, outcome.value, outcome.finite) == ("task", value, finite)
    assert outcome.groups == {"field": "syntax"}
