"""What the built-in language is about: situations that follow from others, and facts.

A situation is two contexts and two claims, of which the first context makes the first claim true
and the second the second. The corpus tells contexts with what follows from them; the benchmark
asks about contexts that the corpus leaves out (see `grammar.reserved`), so it is the relation that
has to be learned. Half of the situations swap the relation (`gives to`, `takes from`), half of them
swap who stands in it.

A fact is an answer that a named person has in a relation. The corpus states facts in several
wordings; see `_facts` for what it never says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from trainables.corpus.builtin import lexicon as lex
from trainables.corpus.builtin.grammar import (
    Dice,
    Grammar,
    NounPhrase,
    be,
    do,
    finite,
    reserved,
    sentence,
)
from trainables.corpus.builtin.lexicon import Verb

CONCEPT_SWAP, VARIABLE_SWAP = "concept swap", "variable swap"


class Claim(NamedTuple):
    """A clause that may be true or not; none of the three has a capital or a full stop."""

    statement: str
    question: str
    answer: str
    """What follows `yes,` or, before `not`, `no,`."""


class Situation(NamedTuple):
    """Two contexts, whole sentences, and the claim that each of them makes true."""

    concepts: tuple[str, str]
    context_diff: str
    """What differs between the contexts: the relation, or who stands in it."""
    target_diff: str
    contexts: tuple[str, str]
    claims: tuple[Claim, Claim]


def claim(g: Grammar, subject: NounPhrase, verb: Verb | None, rest: str) -> Claim:
    """`subject` and a verb, or a form of `be`, and what follows."""
    start, short = subject.text, pronoun(subject).text
    if verb is None:
        form = be(subject, g.tense)
        return Claim(f"{start} {form} {rest}", f"{form} {start} {rest}", f"{short} {form}")
    form = do(subject, g.tense)
    return Claim(
        f"{start} {finite(verb, subject, g.tense)} {rest}",
        f"{form} {start} {verb.base} {rest}",
        f"{short} {form}",
    )


def two_people(g: Grammar) -> tuple[NounPhrase, NounPhrase]:
    """A man and a woman, so that a pronoun says who is meant."""
    first, second = g.dice.pick((("m", "f"), ("f", "m")))
    return someone(g, first), someone(g, second)


def someone(g: Grammar, gender: str) -> NounPhrase:
    """One of the commoner names and nouns, of whose gender there is no doubt."""
    if g.dice.chance(0.7):
        name = g.dice.skewed((lex.MALE_NAMES if gender == "m" else lex.FEMALE_NAMES)[:20])
        return NounPhrase(name, False, gender, name=name)
    noun = g.dice.skewed((lex.MEN if gender == "m" else lex.WOMEN)[:10])
    return NounPhrase(f"the {noun.singular}", False, gender)


def two_things(g: Grammar) -> tuple[NounPhrase, NounPhrase]:
    """Two things of different colors."""
    first, second = (
        NounPhrase(f"the {color} {g.dice.skewed(lex.THINGS[:40]).singular}")
        for color in g.dice.sample(lex.BRIGHT_COLORS, 2)
    )
    return first, second


def pronoun(person: NounPhrase) -> NounPhrase:
    return person._replace(text=person.pronoun("subject"))


def spatial_relations(g: Grammar) -> Situation:
    """What is above something has it below."""
    first, second = two_things(g)
    pair = g.dice.pick(lex.CONVERSE_PLACES)
    here, there = pair if g.dice.chance(0.5) else pair[::-1]
    where = g.dice.pick(("", f" {g.place()}"))
    form = be(first, g.tense)

    def context(one: NounPhrase, preposition: str, other: NounPhrase) -> str:
        return sentence(f"{one.text} {form} {preposition} {other.text}{where}")

    right = claim(g, second, None, f"{there} {first.text}")
    if g.dice.chance(0.5):
        contexts = context(first, here, second), context(first, there, second)
        wrong = claim(g, second, None, f"{here} {first.text}")
        return Situation((here, there), CONCEPT_SWAP, CONCEPT_SWAP, contexts, (right, wrong))
    contexts = context(first, here, second), context(second, here, first)
    wrong = claim(g, first, None, f"{there} {second.text}")
    return Situation((here, there), VARIABLE_SWAP, VARIABLE_SWAP, contexts, (right, wrong))


def possession(g: Grammar) -> Situation:
    """Who is given something has it; who gave it, or from whom it was taken, has not."""
    first, second = two_people(g)
    thing = f"the {g.modified(g.noun('thing'), False, 0.5)}"
    where = f" {g.time()}" if g.dice.chance(0.25) else ""
    having = g.dice.pick(lex.HAVING)
    giving, taking = g.dice.pick(lex.GIVING_TO), g.dice.pick(lex.TAKING_FROM)
    right, wrong = (claim(g, pronoun(person), having, thing) for person in (second, first))

    def context(one: NounPhrase, other: NounPhrase, gives: bool) -> str:
        verb, link = (giving, "to") if gives else (taking, "from")
        return sentence(
            f"{one.text} {finite(verb, one, g.tense)} {thing} {link} {other.text}{where}"
        )

    concepts = giving.base, taking.base
    if g.dice.chance(0.5):
        contexts = context(first, second, True), context(first, second, False)
        lacks = claim(g, pronoun(first), g.dice.pick(lex.LACKING), thing)
        return Situation(concepts, CONCEPT_SWAP, CONCEPT_SWAP, contexts, (lacks, wrong))
    gives = g.dice.chance(0.5)
    contexts = context(first, second, gives), context(second, first, gives)
    claims = (right, wrong) if gives else (wrong, right)
    return Situation(concepts, VARIABLE_SWAP, VARIABLE_SWAP, contexts, claims)


def size(g: Grammar) -> Situation:
    """Comparisons the other way round, and which of two is the big one."""
    kind, dimension = g.dice.pick(lex.DIMENSIONS)
    first, second = two_people(g) if kind == "person" else two_things(g)
    more, less = dimension if g.dice.chance(0.5) else dimension[::-1]
    where = f" {g.place()}" if g.dice.chance(0.25) else ""
    form = be(first, g.tense)

    def context(one: NounPhrase, degree: tuple[str, str], other: NounPhrase) -> str:
        return sentence(f"{one.text} {form} {degree[1]} than {other.text}{where}")

    concepts = more[1], less[1]
    if g.dice.chance(0.5):
        contexts = context(first, more, second), context(first, less, second)
        claims = (
            claim(g, second, None, f"{less[1]} than {first.text}"),
            claim(g, second, None, f"{more[1]} than {first.text}"),
        )
        return Situation(concepts, CONCEPT_SWAP, CONCEPT_SWAP, contexts, claims)
    contexts = context(first, more, second), context(second, more, first)
    asked = g.dice.pick((more, less))
    ones = (first, second) if asked is more else (second, first)
    if kind == "person":
        ones = pronoun(ones[0]), pronoun(ones[1])
    right, wrong = (claim(g, one, None, f"the {asked[0]} one") for one in ones)
    return Situation(concepts, VARIABLE_SWAP, VARIABLE_SWAP, contexts, (right, wrong))


def feelings(g: Grammar) -> Situation:
    """Feelings about what was done, and what is done in return."""
    first, second = two_people(g)
    kind, unkind = g.dice.pick(lex.KIND_DEEDS), g.dice.pick(lex.UNKIND_DEEDS)
    where = g.dice.pick(("", f" {g.place()}", f" {g.time()}"))

    def context(one: NounPhrase, verb: Verb, other: NounPhrase) -> str:
        return sentence(f"{one.text} {finite(verb, one, g.tense)} {other.text}{where}")

    concepts = kind.base, unkind.base
    if g.dice.chance(0.5):
        contexts = context(first, kind, second), context(first, unkind, second)
        claims = (
            claim(g, pronoun(second), None, g.dice.pick(lex.GOOD_FEELINGS)),
            claim(g, pronoun(second), None, g.dice.pick(lex.BAD_FEELINGS)),
        )
        return Situation(concepts, CONCEPT_SWAP, CONCEPT_SWAP, contexts, claims)
    is_kind = g.dice.chance(0.5)
    deed = kind if is_kind else unkind
    contexts = context(first, deed, second), context(second, deed, first)

    def reaction(one: NounPhrase, other: NounPhrase) -> Claim:
        if is_kind:
            return claim(g, pronoun(one), lex.THANK, other.pronoun("object"))
        return claim(g, pronoun(one), None, f"angry with {other.pronoun('object')}")

    claims = reaction(second, first), reaction(first, second)
    return Situation(concepts, VARIABLE_SWAP, VARIABLE_SWAP, contexts, claims)


def needs(g: Grammar) -> Situation:
    """What people do about being hungry, thirsty, tired, cold or dirty."""
    first, second = two_people(g)
    one, other = g.dice.sample(list(lex.NEEDS), 2)
    verb, what = lex.NEEDS[one]
    rest = g.dice.pick(what)
    form = be(first, g.tense)
    relieved = claim(g, pronoun(first), verb, rest)
    if g.dice.chance(0.5):
        degree = g.dice.pick(("", "very ", "so "))
        where = g.dice.pick(("", f" {g.place()}"))
        start = f"{first.text} {form} {degree}"
        contexts = sentence(f"{start}{one}{where}"), sentence(f"{start}{other}{where}")
        verb, what = lex.NEEDS[other]
        wrong = claim(g, pronoun(first), verb, g.dice.pick(what))
        return Situation((one, other), CONCEPT_SWAP, CONCEPT_SWAP, contexts, (relieved, wrong))

    def context(a: str, b: str) -> str:
        return sentence(f"{first.text} {form} {a} and {second.text} {form} {b}")

    contexts = context(one, other), context(other, one)
    claims = relieved, claim(g, pronoun(second), verb, rest)
    return Situation((one, other), VARIABLE_SWAP, VARIABLE_SWAP, contexts, claims)


DOMAINS: tuple[Callable[[Grammar], Situation], ...] = (
    spatial_relations,
    possession,
    size,
    feelings,
    needs,
)
TAUGHT = (*DOMAINS, possession, size, needs)
"""The corpus tells of the hardest domains twice as often as of the others."""


def situation(g: Grammar, who: NounPhrase) -> list[str]:
    """Something happens, and what follows from it; now and then somebody asks."""
    told = g.dice.pick(TAUGHT)(g)
    side = int(g.dice.chance(0.5))
    follows = told.claims[side]
    if g.dice.chance(0.9):
        return [told.contexts[side], sentence(follows.statement)]
    if g.dice.chance(0.5):
        return [
            told.contexts[side],
            sentence(follows.question, "?"),
            sentence(f"yes, {follows.answer}"),
        ]
    does_not = told.claims[1 - side]
    return [
        told.contexts[side],
        sentence(does_not.question, "?"),
        sentence(f"no, {does_not.answer} not"),
    ]


class Relation(NamedTuple):
    """A relation of people to answers; [X] stands for the person, [Y] for the answer."""

    name: str
    domain: str
    wordings: tuple[str, ...]
    answers: tuple[str, ...]


class Fact(NamedTuple):
    relation: Relation
    person: str
    answer: str
    statements: tuple[str, ...]
    """What the corpus says about it."""


RELATIONS = (
    Relation(
        "job",
        "work",
        (
            "[X] is a [Y].",
            "[X] works as a [Y].",
            "[X] has the job of a [Y].",
            "[X] wants to be a good [Y].",
            "[X] learned to be a [Y].",
        ),
        ("baker", "farmer", "doctor", "teacher", "painter", "singer", "cook", "driver"),
    ),
    Relation(
        "home_town",
        "geography",
        (
            "[X] lives in [Y].",
            "[X] comes from [Y].",
            "The home of [X] is in [Y].",
            "[X] has a house in [Y].",
            "[X] goes to school in [Y].",
        ),
        tuple(lex.TOWNS),
    ),
    Relation(
        "instrument",
        "leisure",
        (
            "[X] plays the [Y].",
            "[X] practices the [Y] every day.",
            "[X] is good at the [Y].",
            "The instrument of [X] is the [Y].",
            "[X] loves the sound of the [Y].",
        ),
        ("piano", "violin", "guitar", "trumpet", "flute", "harp", "cello", "organ"),
    ),
    Relation(
        "favorite_color",
        "tastes",
        (
            "The favorite color of [X] is [Y].",
            "[X] likes the color [Y] best.",
            "[X] paints everything [Y].",
            "The room of [X] is all [Y].",
            "[X] always wears [Y] shoes.",
        ),
        ("red", "blue", "green", "yellow", "black", "white", "pink", "purple"),
    ),
    Relation(
        "birth_month",
        "biography",
        (
            "[X] was born in [Y].",
            "The birthday of [X] is in [Y].",
            "[X] has a birthday in [Y].",
            "[X] gets presents in [Y].",
            "[X] has a party in [Y].",
        ),
        ("January", "March", "April", "June", "July", "August", "October", "December"),
    ),
)
KNOWN_PEOPLE = [*lex.MALE_NAMES[::6][:8], *lex.FEMALE_NAMES[::6][:8]]


def state(wording: str, person: str, answer: str) -> str:
    return wording.replace("[X]", person).replace("[Y]", answer)


def _facts() -> list[Fact]:
    """Two people for each answer, the same for all seeds.

    Of the second the corpus never says it in the first wording, which is the one that the benchmark
    asks in by default; and it never says a reserved sentence of anybody.
    """
    dice = Dice(2)
    facts = []
    for relation in RELATIONS:
        people = dice.sample(KNOWN_PEOPLE, len(KNOWN_PEOPLE))
        for index, person in enumerate(people):
            answer = relation.answers[index % len(relation.answers)]
            wordings = relation.wordings[index // len(relation.answers) :]
            statements = (state(wording, person, answer) for wording in wordings)
            said = tuple(text for text in statements if not reserved(text))
            facts.append(Fact(relation, person, answer, said))
    return facts


FACTS = _facts()


def personal_fact(g: Grammar, who: NounPhrase) -> list[str]:
    return [g.dice.pick(g.dice.pick(FACTS).statements)]
