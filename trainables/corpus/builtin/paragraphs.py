"""The built-in corpus `mini`: paragraphs of sentences about one or two characters."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from trainables.corpus.builtin import knowledge, stories
from trainables.corpus.builtin.grammar import Grammar, NounPhrase, reserved
from trainables.corpus.builtin.stories import Writer

MINI_WORDS = {"train": 400_000, "dev": 20_000}
CORPUS_SKEW = 2.5
"""A tenth of the words of a list takes two fifths of the draws: rare words are learned late."""

SHARES: dict[Writer, float] = {
    stories.narrative: 16,
    stories.somebody_else: 14,
    stories.description: 6,
    stories.thing_event: 4,
    stories.said: 5,
    stories.indirect_question: 6,
    stories.reflexive: 9,
    stories.polarity: 8,
    stories.negation: 4,
    stories.never: 3,
    stories.existential: 5,
    stories.amount: 3,
    stories.passive: 6,
    stories.with_adjunct: 4,
    stories.together: 3,
    stories.pronouns: 6,
    stories.comparison: 1,
    stories.fact: 3,
    stories.taste: 3,
    stories.object_question: 7,
    stories.yes_no_question: 5,
    stories.subject_question: 2,
    stories.possession_question: 2,
    stories.place_question: 4,
    knowledge.situation: 28,
    knowledge.personal_fact: 13,
}
WRITERS = list(SHARES)
CUMULATIVE = list(accumulate(SHARES.values()))


def paragraph(g: Grammar) -> str:
    """A paragraph of at least three to six sentences, none of them reserved for the benchmark."""
    g.tense = "past" if g.dice.chance(0.5) else "present"
    cast = [character(g) for _ in range(2 if g.dice.chance(0.4) else 1)]
    length = 3 + int(4 * g.dice.random())
    sentences: list[str] = []
    last: NounPhrase | None = None
    while len(sentences) < length:
        who = g.dice.pick(cast)
        # A pronoun only for the character of the sentence before, so that it is never unclear.
        pronoun = who is last and g.dice.chance(0.6)
        spoken = who._replace(text=who.pronoun("subject")) if pronoun else who
        new = writer(g)(g, spoken)
        if not any(reserved(text) for text in new):
            sentences.extend(new)
            words = f" {' '.join(new).lower()} "
            last = who if f" {spoken.text.lower()} " in words else None
    return " ".join(sentences)


def character(g: Grammar) -> NounPhrase:
    roll = g.dice.random()
    if roll < 0.65:
        return g.name()
    noun = g.noun("person" if roll < 0.85 else "animal")
    plural = g.dice.chance(0.4)
    text = f"the {noun.plural if plural else noun.singular}"
    return NounPhrase(text, plural, g.gender(noun), noun.kind)


def writer(g: Grammar) -> Writer:
    mark = g.dice.random() * CUMULATIVE[-1]
    return next(w for w, total in zip(WRITERS, CUMULATIVE, strict=True) if mark < total)


def mini_text(split: str, seed: int = 0) -> Iterator[str]:
    """The paragraphs of the built-in corpus, one a line: about `MINI_WORDS[split]` words.

    The splits draw from the same grammar with different random streams.
    """
    g = Grammar(2 * seed + (split == "dev"), skew=CORPUS_SKEW)
    words = 0
    while words < MINI_WORDS[split]:
        text = paragraph(g)
        words += len(text.split())
        yield text
