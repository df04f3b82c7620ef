"""CHAT transcripts (CHILDES, TalkBank): the utterances as plain text.

What was said stays; what the transcriber says about it goes. The codes are those of MacWhinney,
"Tools for Analyzing Talk, Part 1: The CHAT Transcription Format" (doi 10.21415/3mhn-0z89).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator

_MAIN_TIER = re.compile(r"\*[^\s:]+:\s*")
_TIME = re.compile(r"\x15[^\x15]*\x15|\x15\S*|•[^•]*•")
_CODE = re.compile(r"\[[^\[\]]*\]")
_PAUSE = re.compile(r"\([\d.:]+\)")
_STUTTER = re.compile("↫[^↫]*↫")
_SIGNS = str.maketrans(
    # Scopes, overlaps, stress, pitch and manner of speech; comma-like signs of clauses.
    dict.fromkeys("<>‹›〔〕⌈⌉⌊⌋⸢⸣ˈˌ↑↓⇗↗→↘⇘∞≈≋≡∙∆∇⁎⁇°◉▁▔☺♋Ϋ∮↻↺⤆⤇∬∾⁑↫^≠") | {"„": ",", "‡": ","}
)
_ENDING = re.compile(r"(?<=\w)[.,!?;]+$")
_LENGTHENED = re.compile(r"(?<=\w):+(?!\d)")
_WORD_CLASS = re.compile(r"(?<=\w)\$\S*")
_OMITTED = re.compile(r"0(?!\d|[.,:]\d)")
_INTONATION = re.compile(r"-[?!.,:_'-]*")
_SPACE_BEFORE = re.compile(r"\s+(?=[.,!?;:]+(?:\s|$))")
_UNINTELLIGIBLE = {"xxx", "xx", "yyy", "yy", "www"}


def utterances(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """The line number, from 1, and the clean text of each utterance of a transcript that has words.

    Main tiers (`*CHI:`) are utterances. Headers (`@`) and dependent tiers (`%`) are left out. Lines
    that begin with white space belong to the tier above.
    """
    begin, tier = 0, ""
    for number, line in enumerate(itertools.chain(lines, ["@End"]), 1):
        if line[:1] in ("\t", " "):
            tier += " " + line.strip()
        elif line.strip():
            if (said := _MAIN_TIER.match(tier)) and (text := clean(tier[said.end() :])):
                yield begin, text
            begin, tier = number, line.strip()


def clean(utterance: str) -> str:
    """An utterance without codes, "" if no word is left.

    Repeated and corrected words, fillers (`&-uh`), what is written as it was heard (`gonna [: going
    to]`) and all of a shortened word (`(be)cause`) stay. Sounds that are no words (`&+fr`, `&~ba`),
    events (`&=laughs`), other speakers' words in between (`&*MOT:hm`), omitted words (`0is`) and
    what nobody understood (`xxx`) go. Compounds (`choo+choo`, `Santa_Claus`) are words with spaces
    between them. Punctuation stands at its word, as in written text.
    """
    for code in (_TIME, _PAUSE, _STUTTER):
        utterance = code.sub(" ", utterance)
    while (outer := _CODE.sub(" ", utterance)) != utterance:  # codes may stand in codes
        utterance = outer
    text = " ".join(filter(None, map(_word, utterance.split())))
    text = _SPACE_BEFORE.sub("", text).lstrip(" ,;")
    return text if any(map(str.isalnum, text)) else ""


def _word(token: str) -> str:
    """The word that a token of a main tier says, "" for none."""
    token = token.translate(_SIGNS)
    if token.startswith("+"):
        return _after_plus(token)
    if token.startswith("&-"):
        token = token[2:]
    elif token.startswith(("&", "#")) or _OMITTED.match(token) or _INTONATION.fullmatch(token):
        return ""
    token = _WORD_CLASS.sub("", token)
    ending = found[0] if (found := _ENDING.search(token)) else ""
    word = token.removesuffix(ending).split("@")[0]  # "@": a mark of the word's form or language
    word = _LENGTHENED.sub("", re.sub(r"[()]", "", word))
    if word.lower() in _UNINTELLIGIBLE:
        word = ""
    return re.sub(r"[+_]+", " ", word).strip() + ending


def _after_plus(token: str) -> str:
    """Terminators (`+...`, `+/.`, `+"/?`) as punctuation; linkers (`+<`, `++`) as nothing."""
    if not (found := re.fullmatch(r'\+["/.!]*?(\.\.\.|[.?!])', token)):
        return _word(token.lstrip('+",')) if any(map(str.isalnum, token)) else ""
    return found[1]
