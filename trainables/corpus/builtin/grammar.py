"""Sentences and paragraphs of the built-in language: child-directed-style English.

A paragraph has a cast of one or two characters, a place and a tense, so pronouns, names and
objects carry over from sentence to sentence. Every character has lasting tastes (a pet, a toy,
a food, a friend, a place), every noun its usual adjectives: the long tail of what there is to
learn, beside the syntax.

Only `random.Random.random` is drawn from, whose sequence Python guarantees for a given seed.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from trainables.corpus.builtin import lexicon as lex
from trainables.corpus.builtin.lexicon import Noun, Verb

RESERVED_SHARE = 8
_NO_LETTERS = bytes(set(range(256)) - set(b"abcdefghijklmnopqrstuvwxyz "))

T = TypeVar("T")


class NounPhrase(NamedTuple):
    text: str
    plural: bool = False
    gender: str = "n"
    """m, f, or n; meaningful in the singular."""
    kind: str = "person"
    name: str = ""
    """Whose tastes these are, also where `text` is a pronoun."""

    def pronoun(self, case: str) -> str:
        """`case` is subject, object, possessive or reflexive."""
        if self.text in PRONOUNS[case]:  # we, you
            return PRONOUNS[case][self.text]
        return PRONOUNS[case]["p" if self.plural else self.gender]


def _pronouns(m: str, f: str, n: str, p: str, we: str, you: str) -> dict[str, str]:
    return {"m": m, "f": f, "n": n, "p": p, "we": we, "you": you}


PRONOUNS = {
    "subject": _pronouns("he", "she", "it", "they", "we", "you"),
    "object": _pronouns("him", "her", "it", "them", "us", "you"),
    "possessive": _pronouns("his", "her", "its", "their", "our", "your"),
    "reflexive": _pronouns("himself", "herself", "itself", "themselves", "ourselves", "yourselves"),
}


def reserved(sentence: str) -> bool:
    """Whether a sentence is kept out of the corpus, so that the benchmark may use it.

    A property of the words alone, whatever the seed: one sentence in eight.
    """
    words = sentence.lower().encode().translate(None, delete=_NO_LETTERS)
    return zlib.crc32(words) % RESERVED_SHARE == 0


def sentence(text: str, end: str = ".") -> str:
    return text[0].upper() + text[1:] + end


def with_article(phrase: str) -> str:
    return ("an " if phrase[0] in lex.VOWELS else "a ") + phrase


def be(subject: NounPhrase, tense: str) -> str:
    if tense == "past":
        return "were" if subject.plural else "was"
    return "are" if subject.plural else "is"


def have(subject: NounPhrase, tense: str) -> str:
    if tense == "past":
        return "had"
    return "have" if subject.plural else "has"


def do(subject: NounPhrase, tense: str) -> str:
    if tense == "past":
        return "did"
    return "do" if subject.plural else "does"


def finite(verb: Verb, subject: NounPhrase, tense: str) -> str:
    if tense == "past":
        return verb.past
    return verb.base if subject.plural else verb.third


class Dice:
    """Random choices that are the same on every platform and Python version."""

    def __init__(self, seed: int, skew: float = 1.0) -> None:
        self.random = random.Random(seed).random
        self.skew = skew

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def pick(self, items: Sequence[T]) -> T:
        return items[int(self.random() * len(items))]

    def skewed(self, items: Sequence[T]) -> T:
        """Pick an item, earlier ones more often if `skew` is above 1."""
        return items[int(self.random() ** self.skew * len(items))]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        chosen: list[T] = []
        while len(chosen) < count:
            item = self.pick(items)
            if item not in chosen:
                chosen.append(item)
        return chosen


class Tastes(NamedTuple):
    """What a named character has and likes, in every story."""

    pet: Noun
    toy: Noun
    food: Noun
    place: Noun
    friend: str


def _world() -> tuple[dict[str, Tastes], dict[str, list[str]]]:
    """Every name's tastes and every noun's usual adjectives; the same for all seeds."""
    dice = Dice(1)
    names = [*lex.MALE_NAMES, *lex.FEMALE_NAMES]
    tastes = {
        name: Tastes(
            dice.pick(lex.ANIMALS),
            dice.pick(lex.THINGS),
            dice.pick(lex.FOODS),
            dice.pick(lex.PLACES),
            dice.pick([other for other in names if other != name]),
        )
        for name in names
    }
    usual = {noun.singular: dice.sample(lex.ADJECTIVES[noun.kind], 4) for noun in lex.NOUNS}
    return tastes, usual


TASTES, USUAL_ADJECTIVES = _world()


class Grammar:
    """Draws phrases and clauses; `self.tense` is past or present and holds for a paragraph.

    With `skew` 1 the words of a list are equally frequent; with `skew` s, the first share q of
    them takes a share q ** (1 / s) of the draws.
    """

    def __init__(self, seed: int, skew: float = 1.0) -> None:
        self.dice = Dice(seed, skew)
        self.tense = "past"

    # Noun phrases.

    def noun(self, kind: str) -> Noun:
        return self.dice.skewed(NOUNS_BY_KIND[kind])

    def adjective(self, noun: Noun) -> str:
        if self.dice.chance(0.75):
            return self.dice.pick(USUAL_ADJECTIVES[noun.singular])
        return self.dice.skewed(lex.ADJECTIVES[noun.kind])

    def modified(self, noun: Noun, plural: bool, chance: float = 0.3) -> str:
        form = noun.plural if plural else noun.singular
        if self.dice.chance(chance):
            return f"{self.adjective(noun)} {form}"
        return form

    def determined(self, phrase: str, plural: bool) -> str:
        """A determiner that agrees, and `phrase`."""
        dice = self.dice
        if dice.chance(0.45):
            return f"the {phrase}"
        if plural:
            if dice.chance(0.25):
                return f"{dice.skewed(lex.NUMBERS)} {phrase}"
            return f"{dice.pick(PLURAL_DETERMINERS)} {phrase}"
        if dice.chance(0.45):
            return with_article(phrase)
        return f"{dice.pick(SINGULAR_DETERMINERS)} {phrase}"

    def noun_phrase(self, kind: str, plural: bool | None = None) -> NounPhrase:
        """A determiner, perhaps an adjective, and a noun of `kind`."""
        noun = self.noun(kind)
        if plural is None:
            plural = self.dice.chance(0.4)
        text = self.determined(self.modified(noun, plural), plural)
        return NounPhrase(text, plural, self.gender(noun), kind)

    def gender(self, noun: Noun) -> str:
        """A person whose noun leaves the gender open gets one."""
        return self.dice.pick("mf") if noun.kind == "person" and noun.gender == "n" else noun.gender

    def name(self, gender: str | None = None) -> NounPhrase:
        gender = gender or self.dice.pick("mf")
        names = lex.MALE_NAMES if gender == "m" else lex.FEMALE_NAMES
        name = self.dice.skewed(names)
        return NounPhrase(name, False, gender, name=name)

    def living(self, plural: bool | None = None) -> NounPhrase:
        """A name, a person or an animal."""
        roll = self.dice.random()
        if plural is not True and roll < 0.3:
            return self.name()
        return self.noun_phrase("person" if roll < 0.72 else "animal", plural)

    def inert(self, plural: bool | None = None) -> NounPhrase:
        return self.noun_phrase("food" if self.dice.chance(0.2) else "thing", plural)

    def described(self, plural: bool | None = None) -> NounPhrase:
        """A living subject that carries a prepositional phrase or a relative clause."""
        kind = "person" if self.dice.chance(0.65) else "animal"
        head = self.noun_phrase(kind, plural)
        other = self.noun_phrase(kind if self.dice.chance(0.5) else "thing")
        if self.dice.chance(0.5):
            preposition = "with" if self.dice.chance(0.2) else self.dice.pick(NEAR)
            return head._replace(text=f"{head.text} {preposition} {other.text}")
        return head._replace(text=f"{head.text} {self.relative(head)}")

    def relative(self, head: NounPhrase) -> str:
        """A relative clause about `head`, with a gap as its subject or object."""
        pronoun = "that" if self.dice.chance(0.5) or head.kind == "animal" else "who"
        if self.dice.chance(0.6):
            verb, obj = self.transitive()
            return f"{pronoun} {finite(verb, head, self.tense)} {obj.text}"
        subject = self.living()
        verb = self.dice.skewed(lex.ANY_OBJECT)
        return f"that {subject.text} {finite(verb, subject, self.tense)}"

    # Verb phrases.

    def transitive(self, agent: NounPhrase | None = None) -> tuple[Verb, NounPhrase]:
        """A verb and an object that fits it, and the tastes of `agent`."""
        dice = self.dice
        tastes = TASTES.get(agent.name) if agent and dice.chance(0.6) else None
        roll = dice.random()
        if roll < 0.25:
            if tastes and dice.chance(0.5):
                friend = NounPhrase(tastes.friend, False, gender_of(tastes.friend))
                return dice.skewed(lex.LIVING_OBJECT), friend
            if tastes:
                return dice.skewed(lex.LIVING_OBJECT), self.owned(tastes.pet, agent)
            return dice.skewed(lex.LIVING_OBJECT), self.living()
        if roll < 0.6:
            obj = self.owned(tastes.toy if tastes else self.noun("thing"), agent)
            return dice.skewed(lex.THING_OBJECT), obj
        if roll < 0.75:
            obj = self.owned(tastes.food if tastes else self.noun("food"), agent)
            return dice.skewed(lex.FOOD_OBJECT), obj
        if roll < 0.8:
            determiner = dice.pick(("the", "some", "this", "the"))
            drink = NounPhrase(f"{determiner} {dice.skewed(lex.DRINKS)}", kind="drink")
            return dice.skewed(lex.DRINK_OBJECT), drink
        obj = self.living() if dice.chance(0.5) else self.inert()
        return dice.skewed(lex.ANY_OBJECT), obj

    def owned(self, noun: Noun, owner: NounPhrase | None) -> NounPhrase:
        """`noun`, often with the possessive pronoun of `owner`."""
        plural = self.dice.chance(0.3)
        phrase = self.modified(noun, plural)
        if owner and self.dice.chance(0.55):
            text = f"{owner.pronoun('possessive')} {phrase}"
        else:
            text = self.determined(phrase, plural)
        return NounPhrase(text, plural, noun.gender, noun.kind)

    def place(self, agent: NounPhrase | None = None) -> str:
        """A phrase of place: `in the garden`, `near the old tree`."""
        tastes = TASTES.get(agent.name) if agent else None
        if agent and tastes and self.dice.chance(0.5):
            whose = self.dice.pick(("the", agent.pronoun("possessive")))
            return f"in {whose} {self.modified(tastes.place, False, 0.2)}"
        if self.dice.chance(0.5):
            return f"in the {self.modified(self.noun('place'), False, 0.2)}"
        kind = "landmark" if self.dice.chance(0.75) else "thing"
        return f"{self.dice.pick(NEAR)} the {self.modified(self.noun(kind), False, 0.2)}"

    def verb_phrase(self, agent: NounPhrase) -> tuple[Verb, str]:
        """A verb that fits a living subject, and what follows it."""
        dice = self.dice
        roll = dice.random()
        if roll < 0.4:
            verb, obj = self.transitive(agent)
            living = obj.kind in ("person", "animal")
            rest = obj.pronoun("object") if living and dice.chance(0.3) else obj.text
            return verb, rest if dice.chance(0.75) else f"{rest} {self.place(agent)}"
        if roll < 0.75:
            return dice.skewed(lex.INTRANSITIVE), self.circumstance(agent)
        if roll < 0.85:
            thing = self.inert()
            receiver = self.living()
            return dice.skewed(lex.GIVING), f"{thing.text} to {receiver.text}"
        if roll < 0.93:
            return dice.skewed(lex.ALTERNATING), self.noun_phrase("thing").text
        return dice.skewed(lex.REFLEXIVE), agent.pronoun("reflexive")

    def circumstance(self, agent: NounPhrase) -> str:
        roll = self.dice.random()
        if roll < 0.6:
            return self.place(agent)
        if roll < 0.8:
            return self.dice.skewed(lex.MANNERS)
        return self.time()

    def time(self) -> str:
        return self.dice.pick(lex.PAST_TIMES if self.tense == "past" else lex.TIMES)

    def predicate(self, subject: NounPhrase) -> str:
        """Auxiliaries, verb and complements of a living subject."""
        verb, rest = self.verb_phrase(subject)
        roll = self.dice.random()
        if roll < 0.6:
            return f"{finite(verb, subject, self.tense)} {rest}"
        if roll < 0.7:
            return f"{be(subject, self.tense)} {verb.gerund} {rest}"
        if roll < 0.82:
            already = "already " if self.dice.chance(0.15) else ""
            return f"{have(subject, self.tense)} {already}{verb.participle} {rest}"
        if roll < 0.9:
            return f"{self.dice.pick(lex.MODALS)} {verb.base} {rest}"
        return f"{do(subject, self.tense)} not {verb.base} {rest}"

    def clause(self, subject: NounPhrase | None = None) -> str:
        subject = subject or self.living()
        return f"{subject.text} {self.predicate(subject)}"


def gender_of(name: str) -> str:
    return "m" if name in lex.MALE_NAMES else "f"


NOUNS_BY_KIND = {
    "person": lex.PEOPLE,
    "animal": lex.ANIMALS,
    "thing": lex.THINGS,
    "food": lex.FOODS,
    "place": lex.PLACES,
    "landmark": lex.LANDMARKS,
}
NEAR = ("near", "by", "behind", "next to", "under", "in front of", "beside", "near", "by")
SINGULAR_DETERMINERS = ("this", "that", "every", "each", "one", "this", "that", "another")
PLURAL_DETERMINERS = ("these", "those", "some", "many", "all", "few", "several", "these", "those")
