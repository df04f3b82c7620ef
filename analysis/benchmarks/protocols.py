"""From text to scored tokens: the two public zero-shot protocols, in one place for all benchmarks.

Both sum natural-log token probabilities over the whole text, without length normalisation and
without an end-of-text token. They differ in what the first token is conditioned on.

`2024` (BabyLM 2024 pipeline): one space before the text; conditioned on BOS, else EOS, else the pad
token; no other special tokens.
`2025` (BabyLM 2025 pipeline): the text as it is, with the special tokens the tokenizer itself adds.
Without a BOS among them the first token of the text is context only and is not scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.benchmarks.scoring import Span

PROTOCOLS = ("2024", "2025")


def check_protocol(protocol: str) -> None:
    """Raise ValueError unless `protocol` is one of `PROTOCOLS`."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}: choose from {', '.join(PROTOCOLS)}")


@dataclass(frozen=True)
class Encoder:
    """A transformers tokenizer used by the rules of one protocol."""

    tokenizer: Any
    protocol: str

    def __post_init__(self) -> None:
        check_protocol(self.protocol)

    def texts(self, texts: Sequence[str], names: Sequence[str]) -> list[Span]:
        """One span per text that scores the whole text.

        Args:
            texts: the texts.
            names: where each comes from, for error messages.

        Raises:
            ValueError: protocol 2024 and a tokenizer without BOS, EOS and pad token.
        """
        if not texts:
            return []
        encode = self._encode_2024 if self.protocol == "2024" else self._encode_2025
        return [
            Span(ids, end=end, name=name)
            for (ids, end), name in zip(encode(texts), names, strict=True)
        ]

    def _encode_2024(self, texts: Sequence[str]) -> list[tuple[tuple[int, ...], int]]:
        prefix = self._prefix_id()
        spaced = [" " + text for text in texts]
        encoded = self.tokenizer(spaced, add_special_tokens=False)["input_ids"]
        return [((prefix, *ids), len(ids) + 1) for ids in encoded]

    def _encode_2025(self, texts: Sequence[str]) -> list[tuple[tuple[int, ...], int]]:
        eos = self.tokenizer.eos_token_id
        encoded = self.tokenizer(list(texts))["input_ids"]
        # An EOS that the tokenizer appends is not part of the text and is not scored.
        return [(tuple(ids), len(ids) - (len(ids) > 1 and ids[-1] == eos)) for ids in encoded]

    def _prefix_id(self) -> int:
        candidates = ("bos_token_id", "eos_token_id", "pad_token_id")
        for token_id in (getattr(self.tokenizer, name) for name in candidates):
            if token_id is not None:
                return token_id
        raise ValueError(
            "protocol 2024 conditions every text on the tokenizer's BOS, EOS or pad token, and "
            "this tokenizer has none: set one (tokenizer.bos_token = ...) or use protocol 2025"
        )
