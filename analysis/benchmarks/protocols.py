"""From text to scored tokens: the public zero-shot protocols, in one place for all benchmarks.

All sum natural-log token probabilities, without length normalisation and without an end-of-text
token, over the whole text or, after a context, over what follows it. They differ in what the first
token is conditioned on.

`2024` (BabyLM 2024 pipeline, a fork of lm-eval): one space before the text; conditioned on BOS,
else EOS, else the pad token; no other special tokens. A context is conditioned on nothing.
`2025` (BabyLM 2025 pipeline): the text as it is, with the special tokens the tokenizer itself adds.
Without a BOS among them the first token of the text is context only and is not scored.
`2026` (BabyLM 2026 pipeline, github.com/babylm-org/babylm-eval as of commit a66e05d, July 2026,
which github.com/serdardoesml/babylm-eval holds, too; strict/evaluation_pipeline/
sentence_zero_shot): tokens as in 2025; EWoK asks in the other direction (`ewok`), entity tracking
leaves items out (`later_tasks`), GlobalPIQA is new (`global_piqa`), and the macro is over more
benchmarks (`kinds.MACRO_WEIGHTS`). The organisers' commit 45fe2c1 of April 2026 does not yet: it
asks EWoK and entity tracking as in 2025, and has no GlobalPIQA.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from analysis.benchmarks.scoring import Span

PROTOCOLS = ("2024", "2025", "2026")


def check_protocol(protocol: str) -> None:
    """Raise ValueError unless `protocol` is one of `PROTOCOLS`."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}: choose from {', '.join(PROTOCOLS)}")


def token_ids(
    tokenizer: PreTrainedTokenizerBase, *texts: Sequence[str], **options: Any
) -> list[list[int]]:
    """Token ids of texts, or of pairs of them.

    Args:
        tokenizer: of a model.
        texts: as it takes them, one or two lists.
        options: of its call.

    Raises:
        ValueError: a text has something that the tokenizer has no token for.
    """
    try:
        # Not verbose: whether a text fits the model's context is checked, and said, elsewhere.
        ids: list[list[int]] = tokenizer(*texts, verbose=False, **options)["input_ids"]
    except Exception as error:
        if type(error) is not Exception:  # the tokenizers' library has no kind of its own
            raise
        raise ValueError(
            f"the tokenizer has no token for something in the texts ({error}): put the model's own "
            "tokenizer into its folder"
        ) from error
    return ids


@dataclass(frozen=True)
class Encoder:
    """A transformers tokenizer used by the rules of one protocol."""

    tokenizer: PreTrainedTokenizerBase
    protocol: str

    def __post_init__(self) -> None:
        check_protocol(self.protocol)

    def spans(self, options: Sequence[tuple[str, str]], names: Sequence[str]) -> list[Span]:
        """One span per (context, option) that scores the option.

        Args:
            options: a text to score, and what stands before it ("" for nothing). After a context an
                option begins with its own space.
            names: where each comes from, for error messages.

        Raises:
            ValueError: protocol 2024, an option without context, and a tokenizer without BOS, EOS
                and pad token.
        """
        alone = [index for index, (context, _) in enumerate(options) if not context]
        after = [index for index, (context, _) in enumerate(options) if context]
        encoded: dict[int, tuple[tuple[int, ...], int, int]] = {}
        for which, encode in ((alone, self._texts), (after, self._continuations)):
            if which:
                found = encode([options[index] for index in which])
                encoded.update(zip(which, found, strict=True))
        return [
            Span(ids, start, end, name)
            for (ids, start, end), name in zip(
                (encoded[index] for index in range(len(options))), names, strict=True
            )
        ]

    def _texts(self, options: Sequence[tuple[str, str]]) -> list[tuple[tuple[int, ...], int, int]]:
        """Ids, first scored position, and the position after the last, of texts alone."""
        if self.protocol == "2024":
            prefix = self._prefix_id()
            spaced = [" " + text for _, text in options]
            return [((prefix, *ids), 1, len(ids) + 1) for ids in self._encode(spaced)]
        encoded = self._encode([text for _, text in options])
        return [(tuple(ids), 1, self._end(ids)) for ids in encoded]

    def _continuations(
        self, options: Sequence[tuple[str, str]]
    ) -> list[tuple[tuple[int, ...], int, int]]:
        """The same of texts after a context: what is longer than the context alone is scored."""
        # White space at a context's end is encoded with what follows it, as lm-eval does.
        contexts = [context.rstrip() for context, _ in options]
        texts = [context + option for context, option in options]
        distinct = list(dict.fromkeys(contexts))
        length = dict(zip(distinct, map(self._end, self._encode(distinct)), strict=True))
        return [
            (tuple(ids), max(length[context], 1), self._end(ids))
            for context, ids in zip(contexts, self._encode(texts), strict=True)
        ]

    def _encode(self, texts: list[str]) -> list[list[int]]:
        special = self.protocol != "2024"
        return token_ids(self.tokenizer, texts, add_special_tokens=special)

    def _end(self, ids: Sequence[int]) -> int:
        """An EOS that the tokenizer appends is not part of the text and is not scored."""
        if self.protocol == "2024":
            return len(ids)
        return len(ids) - (len(ids) > 1 and ids[-1] == self.tokenizer.eos_token_id)

    def _prefix_id(self) -> int:
        candidates = ("bos_token_id", "eos_token_id", "pad_token_id")
        for token_id in (getattr(self.tokenizer, name) for name in candidates):
            if token_id is not None:
                return int(token_id)
        raise ValueError(
            "protocol 2024 conditions every text on the tokenizer's BOS, EOS or pad token, and "
            "this tokenizer has none: set one (tokenizer.bos_token = ...) or use protocol 2025"
        )
