"""The constructions of the built-in corpus: one function each, which writes about a character.

Every construction that the benchmark in `phenomena.py` tests occurs here in its grammatical
forms only, and so do the contexts that tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable

from trainables.corpus.builtin import lexicon as lex
from trainables.corpus.builtin.grammar import (
    NEAR,
    TASTES,
    Grammar,
    NounPhrase,
    be,
    do,
    finite,
    gender_of,
    have,
    sentence,
    with_article,
)

Writer = Callable[[Grammar, NounPhrase], list[str]]
"""Writes a sentence about the character, or a few that belong together."""


def narrative(g: Grammar, who: NounPhrase) -> list[str]:
    return [sentence(g.clause(who))]


def somebody_else(g: Grammar, who: NounPhrase) -> list[str]:
    subject = g.described() if g.dice.chance(0.6) else g.living()
    if g.dice.chance(0.4):
        return [sentence(f"{subject.text} {be(subject, g.tense)} {feeling(g)}")]
    return [sentence(g.clause(subject))]


def feeling(g: Grammar) -> str:
    if g.dice.chance(0.3):
        return g.place()
    degree = g.dice.pick(("very ", "so ", "", "", ""))
    return degree + g.dice.skewed(lex.LIVING_ADJECTIVES)


def description(g: Grammar, who: NounPhrase) -> list[str]:
    if g.dice.chance(0.5):
        return [sentence(f"{who.text} {be(who, g.tense)} {feeling(g)}")]
    kind = g.dice.pick(("thing", "food", "place", "animal", "landmark"))
    noun, plural = g.noun(kind), g.dice.chance(0.45)
    phrase = noun.plural if plural else noun.singular
    subject = NounPhrase(g.determined(phrase, plural), plural)
    return [sentence(f"{subject.text} {be(subject, g.tense)} {g.adjective(noun)}")]


def thing_event(g: Grammar, who: NounPhrase) -> list[str]:
    """Things fall and break; the same verbs then take them as objects."""
    thing = g.inert()
    verb = g.dice.skewed(lex.ALTERNATING if g.dice.chance(0.5) else lex.THING_INTRANSITIVE)
    where = g.place() if g.dice.chance(0.5) else g.time()
    if g.dice.chance(0.2):
        return [sentence(f"{thing.text} {have(thing, g.tense)} {verb.participle} {where}")]
    return [sentence(f"{thing.text} {finite(verb, thing, g.tense)} {where}")]


def said(g: Grammar, who: NounPhrase) -> list[str]:
    verb = g.dice.skewed(lex.SAYING if g.dice.chance(0.6) else lex.KNOWING)
    inner = g.living() if g.dice.chance(0.7) else who
    if inner is who and not who.plural:
        inner = who._replace(text=who.pronoun("subject"))
    elif g.dice.chance(0.15):
        inner = NounPhrase(g.dice.pick(("we", "you", "they")), True)
    return [sentence(f"{who.text} {finite(verb, who, g.tense)} that {g.clause(inner)}")]


def anybody(g: Grammar) -> NounPhrase:
    return NounPhrase("who", False, g.dice.pick("mf"))


def indirect_question(g: Grammar, who: NounPhrase) -> list[str]:
    verb = g.dice.skewed(lex.KNOWING if g.dice.chance(0.7) else lex.ASKING)
    start = f"{who.text} {finite(verb, who, g.tense)}"
    inner = g.living()
    if g.dice.chance(0.25):
        return [sentence(f"{start} who {g.predicate(anybody(g))}")]
    gapped, obj = g.transitive(inner)
    word = "who" if obj.kind in ("person", "animal") else "what"
    if g.dice.chance(0.2):
        word = f"which {g.noun(obj.kind).singular}" if obj.kind != "drink" else "what"
    where = f" {g.place(inner)}" if g.dice.chance(0.35) else ""
    return [sentence(f"{start} {word} {inner.text} {finite(gapped, inner, g.tense)}{where}")]


def reflexive(g: Grammar, who: NounPhrase) -> list[str]:
    """Bound by the subject of its own clause, past another clause or below one."""
    subject = g.name() if g.dice.chance(0.45) else g.noun_phrase("person")
    verb = g.dice.skewed(lex.REFLEXIVE)
    predicate = f"{finite(verb, subject, g.tense)} {subject.pronoun('reflexive')}"
    where = f" {g.place()}" if g.dice.chance(0.25) else ""
    roll = g.dice.random()
    if roll < 0.5:
        return [sentence(f"{subject.text} {predicate}{where}")]
    if roll < 0.85 or subject.name:
        saying = g.dice.skewed(lex.SAYING)
        start = f"{who.text} {finite(saying, who, g.tense)} that"
        return [sentence(f"{start} {subject.text} {predicate}")]
    return [sentence(f"{subject.text} {g.relative(subject)} {predicate}")]


LICENSORS = ("no {}", "nobody", "only {}", "few {}", "no {}", "none of the {}")
POSITIVES = ("some {}", "somebody", "even {}", "many {}", "every {}", "all of the {}", "the {}")


def quantified(g: Grammar, pattern: str) -> NounPhrase:
    """The subject that `pattern` describes, plural where its quantifier asks for it."""
    if pattern in ("only {}", "even {}"):
        name = g.name()
        return name._replace(text=pattern.format(name.name))
    plural = pattern.split()[0] in ("few", "many", "none", "all")
    if pattern in ("no {}", "some {}", "the {}"):
        plural = g.dice.chance(0.5)
    noun = g.noun("person" if g.dice.chance(0.7) else "animal")
    phrase = g.modified(noun, plural, 0.15)
    return NounPhrase(pattern.format(phrase), plural, g.gender(noun), noun.kind)


def polarity(g: Grammar, who: NounPhrase) -> list[str]:
    """Negative polarity items under their licensors; `already`, `some` without."""
    negative = g.dice.chance(0.5)
    subject = quantified(g, g.dice.pick(LICENSORS if negative else POSITIVES))
    if subject.text.startswith(("no ", "some ", "every ")) and g.dice.chance(0.4):
        other = quantified(g, g.dice.pick(("no {}", "some {}", "every {}")))
        verb = g.dice.skewed(lex.ANY_OBJECT)
        clause = f"that {other.text} {finite(verb, other, g.tense)}"
        subject = subject._replace(text=f"{subject.text} {clause}")
    roll = g.dice.random()
    if roll < 0.5:
        adverb = "ever" if negative else "already"
        verb, rest = g.verb_phrase(subject)
        auxiliary = have(subject, g.tense)
        return [sentence(f"{subject.text} {auxiliary} {adverb} {verb.participle} {rest}")]
    verb = g.dice.skewed(lex.THING_OBJECT)
    noun = g.noun("thing")
    if roll < 0.75:
        quantity = "even one" if negative else "at least one"
        obj = f"{quantity} {g.modified(noun, False, 0.2)}"
    else:
        obj = f"{'any' if negative else 'some'} {g.modified(noun, True, 0.2)}"
    return [sentence(f"{subject.text} {finite(verb, subject, g.tense)} {obj}")]


def negation(g: Grammar, who: NounPhrase) -> list[str]:
    """`not ... any` against `... some`, with a relative clause that may hold another `not`."""
    head, modal = g.noun_phrase("person"), g.dice.pick(lex.MODALS[:3])
    verb, noun = g.dice.skewed(lex.THING_OBJECT), g.noun("thing")
    things = g.modified(noun, True, 0.2)
    other, other_verb = g.living(), g.dice.skewed(lex.LIVING_OBJECT)
    inner, outer = g.dice.pick((("", ""), ("not ", ""), ("", "not "), ("", "not ")))
    clause = f"who {modal} {inner}{other_verb.base} {other.text}" if g.dice.chance(0.7) else ""
    subject = f"{head.text} {clause}".strip() if clause else who.text
    obj = f"any {things}" if outer else f"some {things}"
    return [sentence(f"{subject} {modal} {outer}{verb.base} {obj}")]


def never(g: Grammar, who: NounPhrase) -> list[str]:
    verb, rest = g.verb_phrase(who)
    if g.dice.chance(0.5):
        return [sentence(f"{who.text} {have(who, g.tense)} never {verb.participle} {rest}")]
    question = f"{have(who, g.tense)} {who.text} ever {verb.participle} {rest}"
    return [sentence(question, "?"), sentence(g.dice.pick(("no", "yes")))]


def existential(g: Grammar, who: NounPhrase) -> list[str]:
    """`there is a`, `no`, numbers; `every` and `each` everywhere but there."""
    noun = g.noun(g.dice.pick(("animal", "person", "thing", "thing", "food")))
    every = g.dice.pick(("every", "each"))
    if g.dice.chance(0.25):
        subject = NounPhrase(f"{every} {g.modified(noun, False)}")
        return [sentence(f"{subject.text} {be(subject, g.tense)} {g.place()}")]
    plural = g.dice.chance(0.4)
    phrase = g.modified(noun, plural)
    if plural:
        phrase = f"{g.dice.pick(('no', 'some', 'many', 'few', *lex.NUMBERS))} {phrase}"
    elif g.dice.chance(0.6):
        phrase = with_article(phrase)
    else:
        phrase = f"{g.dice.pick(('no', 'some', 'one', 'another'))} {phrase}"
    where = g.place()
    if g.dice.chance(0.5):
        site = g.noun("landmark").singular
        where = f"{g.dice.pick(NEAR)} {g.dice.pick((every, every, 'some', 'one', 'no'))} {site}"
    return [sentence(f"there {be(NounPhrase('', plural), g.tense)} {phrase} {where}")]


def amount(g: Grammar, who: NounPhrase) -> list[str]:
    """Mass and count quantifiers; numbers with `more than`, `at least`, `no more than`."""
    verb = g.dice.skewed(lex.THING_OBJECT)
    if g.dice.chance(0.5):
        mass = g.dice.skewed(lex.SUBSTANCES + lex.DRINKS)
        obj = f"{g.dice.pick(('much', 'little', 'some', 'a little', 'too much'))} {mass}"
    else:
        measure = g.dice.pick(("more than", "at least", "no more than", "at most", "fewer than"))
        kind = "thing" if g.dice.chance(0.7) else "food"
        obj = f"{measure} {g.dice.skewed(lex.NUMBERS)} {g.modified(g.noun(kind), True)}"
    return [sentence(f"{who.text} {finite(verb, who, g.tense)} {obj}")]


def passive(g: Grammar, who: NounPhrase) -> list[str]:
    verb, obj = g.transitive(who)
    be_form = f"{be(obj, g.tense)} {verb.participle}"
    if g.dice.chance(0.15):
        be_form = f"{have(obj, g.tense)} been {verb.participle}"
    agent = g.living() if obj.kind not in ("food", "drink") or g.dice.chance(0.5) else who
    tail = f" {g.place()}" if g.dice.chance(0.25) else ""
    by = "" if agent.text in ("he", "she", "it", "they") else f" by {agent.text}"
    return [sentence(f"{obj.text} {be_form}{by}{tail}")]


def with_adjunct(g: Grammar, who: NounPhrase) -> list[str]:
    link = g.dice.pick(("before", "after", "because", "when", "while"))
    inner = who._replace(text=who.pronoun("subject")) if g.dice.chance(0.5) else g.living()
    if g.dice.chance(0.25):
        first = sentence(f"{link} {g.clause(inner)}", "")
        return [f"{first}, {g.clause(who)}."]
    return [sentence(f"{g.clause(who)} {link} {g.clause(inner)}")]


def together(g: Grammar, who: NounPhrase) -> list[str]:
    other = g.name() if g.dice.chance(0.5) else g.noun_phrase("person", False)
    if who.text in ("he", "she", "it", "they"):
        return [sentence(f"{g.clause(who)} and {g.clause(other)}")]
    pair = NounPhrase(f"{who.text} and {other.text}", True)
    return [sentence(g.clause(pair))]


def pronouns(g: Grammar, who: NounPhrase) -> list[str]:
    """Case: a pronoun subject or object, first and second person too."""
    verb = g.dice.skewed(lex.LIVING_OBJECT if g.dice.chance(0.6) else lex.ANY_OBJECT)
    where = f" {g.place()}" if g.dice.chance(0.4) else ""
    other = g.living()
    if g.dice.chance(0.5):
        obj = g.dice.pick(("him", "her", "them", "me", "us", "you"))
        return [sentence(f"{other.text} {finite(verb, other, g.tense)} {obj}{where}")]
    person, plural = g.dice.pick(
        (("he", False), ("she", False), ("they", True), ("I", True), ("we", True), ("you", True))
    )
    subject = NounPhrase(person, plural)
    return [sentence(f"{person} {finite(verb, subject, g.tense)} {other.text}{where}")]


def comparison(g: Grammar, who: NounPhrase) -> list[str]:
    small, large = sorted(g.dice.sample(range(len(lex.SIZES)), 2))
    if g.dice.chance(0.5):
        return [f"The {lex.SIZES[large]} is bigger than the {lex.SIZES[small]}."]
    return [f"The {lex.SIZES[small]} is smaller than the {lex.SIZES[large]}."]


def fact(g: Grammar, who: NounPhrase) -> list[str]:
    roll = g.dice.random()
    if roll < 0.6:
        animal = g.dice.pick(list(lex.ANIMAL_FACTS))
        says, eats, home = lex.ANIMAL_FACTS[animal]
        fact_text = g.dice.pick((f"says {says}", f"eats {eats}", f"lives in the {home}"))
        return [
            f"{g.dice.pick(('The', 'A' if animal[0] not in lex.VOWELS else 'An', 'Every'))} "
            f"{animal} {fact_text}."
        ]
    if roll < 0.8:
        what = g.dice.pick(list(lex.COLORS))
        return [sentence(f"{what} is {lex.COLORS[what]}")]
    worker = g.dice.pick(list(lex.WORK))
    verb = g.dice.pick(("loves", "looks for", "thinks about"))
    return [f"The {worker} {verb} {lex.WORK[worker]}."]


def taste(g: Grammar, who: NounPhrase) -> list[str]:
    name = who.name or g.name().name
    pet, toy, food, place, friend = TASTES[name]
    pronoun = "He" if gender_of(name) == "m" else "She"
    usual = g.modified(pet, False, 0.5)
    return g.dice.pick(
        (
            [f"{name} has {with_article(usual)}."],
            [f"{name} likes {food.plural}.", f"{pronoun} eats {food.plural} every day."],
            [f"{friend} is the best friend of {name}."],
            [f"The {toy.singular} belongs to {name}."],
            [f"{name} is often in the {place.singular}."],
        )
    )


# Questions, most of them answered.


def object_question(g: Grammar, who: NounPhrase) -> list[str]:
    verb, obj = g.transitive(who)
    word = "Who" if obj.kind in ("person", "animal") else "What"
    auxiliary = do(who, g.tense)
    tail = g.place(who) if g.dice.chance(0.6) else ""
    if g.dice.chance(0.35):
        inner = g.living()
        link = g.dice.pick(("before", "after", "while", "when"))
        tail = f"{link} {g.clause(inner)}"
    if g.dice.chance(0.25):
        other = g.living(False)
        both = f"{who.text} and {other.text}" if who.text not in SUBJECT_PRONOUNS else other.text
        question = f"{word} {do(NounPhrase('', both != other.text), g.tense)} {both} {verb.base}"
        return [f"{question} {tail}".rstrip() + "?"]
    question = f"{word} {auxiliary} {who.text} {verb.base} {tail}".rstrip() + "?"
    answer = f"{who.pronoun('subject')} {finite(verb, who, g.tense)} {obj.text}"
    return [question, sentence(answer)]


SUBJECT_PRONOUNS = ("he", "she", "it", "they")


def yes_no_question(g: Grammar, who: NounPhrase) -> list[str]:
    verb, rest = g.verb_phrase(who)
    question = sentence(f"{do(who, g.tense)} {who.text} {verb.base} {rest}", "?")
    subject = who.pronoun("subject")
    answer = g.dice.pick(
        (
            f"Yes, {subject} {do(who, g.tense)}.",
            f"No, {subject} {do(who, g.tense)} not.",
            f"No, but {g.clause()}.",
        )
    )
    return [question, answer]


def subject_question(g: Grammar, who: NounPhrase) -> list[str]:
    someone = anybody(g)
    verb, rest = g.verb_phrase(someone)
    return [
        f"Who {finite(verb, someone, g.tense)} {rest}?",
        sentence(f"{who.text} {do(who, g.tense)}"),
    ]


def possession_question(g: Grammar, who: NounPhrase) -> list[str]:
    noun, owner = g.noun("thing"), g.living(False)
    verb = g.dice.skewed(lex.THING_OBJECT)
    question = f"Whose {noun.singular} {do(who, g.tense)} {who.text} {verb.base}?"
    subject = who.pronoun("subject")
    answer = f"{subject} {finite(verb, who, g.tense)} the {noun.singular} of {owner.text}"
    return [question, sentence(answer)]


def place_question(g: Grammar, who: NounPhrase) -> list[str]:
    """Things stay where they were put."""
    noun, where = g.noun("thing"), g.place(who)
    thing = g.modified(noun, False, 0.2)
    told = f"{who.text} {'puts' if g.tense == 'present' and not who.plural else 'put'}"
    told += f" the {thing} {where}"
    be_form = "was" if g.tense == "past" else "is"
    if g.dice.chance(0.5):
        return [sentence(told), sentence(f"the {noun.singular} {be_form} {where}")]
    return [sentence(told), f"Where {be_form} the {noun.singular}?", f"It {be_form} {where}."]
