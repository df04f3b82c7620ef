"""Minimal pairs of the built-in language.

One rule keeps an untrained model at 50%: what differs between the sentences of a pair is on the
good side in one half of a paradigm's pairs and on the bad side in the other (`flip`), or it is
the order of the same words. So neither length nor the bare frequency of a word gives a pair away.

Every sentence, good or bad, is one that the corpus leaves out (see `grammar.reserved`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from trainables.corpus.builtin import lexicon as lex
from trainables.corpus.builtin.grammar import (
    NEAR,
    Grammar,
    NounPhrase,
    be,
    do,
    finite,
    have,
    reserved,
    sentence,
)
from trainables.corpus.builtin.lexicon import Noun

PAIRS_PER_PARADIGM = 100
IRREGULAR_NOUNS = [noun for noun in lex.NOUNS if noun.irregular]
NEEDS_LIVING_OBJECT = [verb for verb in lex.STRICTLY_TRANSITIVE if verb in lex.LIVING_OBJECT]

Pair = tuple[str, str]
"""Good, bad: sentences without capital and full stop."""


class Paradigm(NamedTuple):
    uid: str
    field: str
    term: str
    write: Callable[[Grammar, bool], Pair]


def either(template: str, right: str, wrong: str) -> Pair:
    return template.format(right), template.format(wrong)


# Agreement.


def verb_forms(g: Grammar, subject: NounPhrase) -> tuple[str, str, str]:
    """A finite verb that agrees with `subject`, one that does not, and what follows."""
    other = subject._replace(plural=not subject.plural)
    roll = g.dice.random()
    if roll < 0.35:
        tense = g.dice.pick(("past", "present"))
        feeling = g.dice.skewed(lex.LIVING_ADJECTIVES)
        return be(subject, tense), be(other, tense), feeling
    if roll < 0.5:
        verb = g.dice.skewed(lex.INTRANSITIVE)
        return have(subject, "present"), have(other, "present"), f"{verb.participle} {g.place()}"
    verb, rest = g.dice.skewed(lex.INTRANSITIVE), g.place()
    if roll < 0.75:
        verb, obj = g.transitive()
        rest = obj.text
    return finite(verb, subject, "present"), finite(verb, other, "present"), rest


def plain_subject(g: Grammar, plural: bool) -> NounPhrase:
    noun = g.noun("person" if g.dice.chance(0.6) else "animal")
    text = f"the {g.modified(noun, plural)}"
    return NounPhrase(text, plural, noun.gender, noun.kind)


def agreement_simple(g: Grammar, flip: bool) -> Pair:
    subject = plain_subject(g, flip)
    right, wrong, rest = verb_forms(g, subject)
    return either(f"{subject.text} {{}} {rest}", right, wrong)


def agreement_phrase_attractor(g: Grammar, flip: bool) -> Pair:
    subject, attractor = plain_subject(g, flip), plain_subject(g, not flip)
    right, wrong, rest = verb_forms(g, subject)
    second = f" {g.dice.pick(NEAR)} {plain_subject(g, not flip).text}" if g.dice.chance(0.5) else ""
    phrase = f"{g.dice.pick(NEAR)} {attractor.text}{second}"
    return either(f"{subject.text} {phrase} {{}} {rest}", right, wrong)


def agreement_clause_attractor(g: Grammar, flip: bool) -> Pair:
    subject, attractor = plain_subject(g, flip), plain_subject(g, not flip)
    g.tense = "past"  # so that the verb of the clause does not give the number away
    verb = g.dice.skewed(lex.ANY_OBJECT)
    clause = f"that {verb.past} {attractor.text}"
    if g.dice.chance(0.5):
        clause = f"that {attractor.text} {verb.past}"
    right, wrong, rest = verb_forms(g, subject)
    return either(f"{subject.text} {clause} {{}} {rest}", right, wrong)


def determiner_noun(g: Grammar, flip: bool) -> Pair:
    kind = g.dice.pick(("person", "animal", "thing"))
    noun = g.noun(kind)
    if g.dice.chance(0.4):
        noun = g.dice.pick(IRREGULAR_NOUNS)
    singular, plural = g.dice.pick((("this", "these"), ("that", "those")))
    verb = g.dice.skewed(lex.ANY_OBJECT)
    adjective = f"{g.adjective(noun)} " if g.dice.chance(0.5) else ""
    start = f"{g.name().text} {verb.past}"
    if g.dice.chance(0.5):
        right, wrong = (plural, singular) if flip else (singular, plural)
        form = noun.plural if flip else noun.singular
        return either(f"{start} {{}} {adjective}{form}", right, wrong)
    right, wrong = (noun.plural, noun.singular) if flip else (noun.singular, noun.plural)
    return either(f"{start} {plural if flip else singular} {adjective}{{}}", right, wrong)


# Anaphora.


def gendered(g: Grammar, gender: str) -> NounPhrase:
    if g.dice.chance(0.4):
        return g.name(gender)
    noun: Noun = g.dice.skewed(lex.MEN if gender == "m" else lex.WOMEN)
    return NounPhrase(f"the {noun.singular}", False, gender)


def anaphor_gender(g: Grammar, flip: bool) -> Pair:
    subject = gendered(g, "f" if flip else "m")
    other = subject._replace(gender="m" if flip else "f")
    verb = finite(g.dice.skewed(lex.REFLEXIVE), subject, g.tense)
    tail = f" {g.place()}" if g.dice.chance(0.4) else ""
    right, wrong = subject.pronoun("reflexive"), other.pronoun("reflexive")
    return either(f"{subject.text} {verb} {{}}{tail}", right, wrong)


def anaphor_number(g: Grammar, flip: bool) -> Pair:
    noun = g.dice.skewed(lex.MEN if g.dice.chance(0.5) else lex.WOMEN)
    subject = NounPhrase(f"the {noun.plural if flip else noun.singular}", flip, noun.gender)
    other = subject._replace(plural=not flip)
    verb = g.dice.skewed(lex.REFLEXIVE).past
    tail = f" {g.place()}" if g.dice.chance(0.4) else ""
    right, wrong = subject.pronoun("reflexive"), other.pronoun("reflexive")
    return either(f"{subject.text} {verb} {{}}{tail}", right, wrong)


def anaphor_domain(g: Grammar, flip: bool) -> Pair:
    """Bound in its own clause, not by the subject of the clause above."""
    near, far = gendered(g, "f" if flip else "m"), gendered(g, "m" if flip else "f")
    saying, verb = g.dice.skewed(lex.SAYING).past, g.dice.skewed(lex.REFLEXIVE).past
    right, wrong = near.pronoun("reflexive"), far.pronoun("reflexive")
    return either(f"{far.text} {saying} that {near.text} {verb} {{}}", right, wrong)


# Gaps and islands.


def strict_clause(g: Grammar) -> tuple[NounPhrase, lex.Verb, str]:
    """Subject, a verb that needs an object, and a thing for it."""
    subject = g.living(False)
    return subject, g.dice.pick(lex.STRICTLY_TRANSITIVE), g.noun("thing").singular


def object_gap(g: Grammar, flip: bool) -> Pair:
    """A question with `what` has a gap; one without has none."""
    subject, verb, thing = strict_clause(g)
    adjective, near = g.dice.skewed(lex.THING_ADJECTIVES), g.dice.pick(("near", "by", "behind"))
    gap, filled = f"{near} the {thing}", f"the {adjective} {thing}"
    start = f"{do(subject, g.tense)} {subject.text} {verb.base}"
    if flip:
        return either(f"{start} {{}}", filled, gap)
    return either(f"what {start} {{}}", gap, filled)


def what_or_that(g: Grammar, flip: bool) -> Pair:
    inner, verb, thing = strict_clause(g)
    outer, knowing = g.living(False), g.dice.skewed(lex.KNOWING)
    clause = f"{inner.text} {finite(verb, inner, g.tense)}"
    template = f"{outer.text} {finite(knowing, outer, g.tense)} {{}} {clause}"
    if flip:
        return either(f"{template} the {thing}", "that", "what")
    return either(template, "what", "that")


def adjunct_island(g: Grammar, flip: bool) -> Pair:
    """The gap may be in the main clause, not in the adjunct; the same words in both."""
    first, verb, thing = strict_clause(g)
    second, other, _ = strict_clause(g)
    link = g.dice.pick(("before", "after", "when", "while"))
    start = f"what {do(first, g.tense)} {first.text} {verb.base}"
    clause = f"{link} {second.text} {finite(other, second, g.tense)}"
    return f"{start} {clause} the {thing}", f"{start} the {thing} {clause}"


def coordinate_island(g: Grammar, flip: bool) -> Pair:
    """No gap in one half of a coordination; the same words in both."""
    first, verb, _ = strict_clause(g)
    second, where = g.living(False), g.place()
    word = g.dice.pick(("who", "what"))
    start = f"{word} did {first.text}"
    return (
        f"{start} and {second.text} {verb.base} {where}",
        f"{start} {verb.base} and {second.text} {where}",
    )


# Polarity and quantifiers.


def polarity_subject(g: Grammar, negative: bool) -> str:
    """A subject that licenses negative polarity items, or one like it that does not."""
    noun = g.noun("person" if g.dice.chance(0.7) else "animal").singular
    licensor, other = g.dice.pick(
        (
            (f"no {noun}", f"some {noun}"),
            (f"no {noun}", f"every {noun}"),
            ("nobody", "somebody"),
            (f"only {(name := g.name().text)}", f"even {name}"),
        )
    )
    return licensor if negative else other


def ever_or_already(g: Grammar, flip: bool) -> Pair:
    """The subject licenses `ever` or not, whatever another clause within it holds."""
    subject = polarity_subject(g, negative=not flip)
    if subject.startswith(("no ", "some ", "every ")):
        verb = g.dice.skewed(lex.ANY_OBJECT)
        subject += f" that {polarity_subject(g, negative=flip)} {verb.past}"
    verb, rest = g.verb_phrase(NounPhrase(""))
    template = f"{subject} {have(NounPhrase(''), g.tense)} {{}} {verb.participle} {rest}"
    return either(template, *(("already", "ever") if flip else ("ever", "already")))


def negation_scope(g: Grammar, flip: bool) -> Pair:
    """`not` licenses `any` in its own clause only; the same words in both."""
    modal, other = g.dice.pick(lex.MODALS[:3]), g.living()
    head, verb = g.noun_phrase("person"), g.dice.skewed(lex.LIVING_OBJECT)
    main, things = g.dice.skewed(lex.THING_OBJECT), g.noun("thing").plural
    template = f"{head.text} who {modal} {{}}{verb.base} {other.text} {modal} {{}}{main.base}"
    some = "some" if flip else "any"
    low, high = template.format("not ", ""), template.format("", "not ")
    right, wrong = (low, high) if flip else (high, low)
    return f"{right} {some} {things}", f"{wrong} {some} {things}"


def even_or_least(g: Grammar, flip: bool) -> Pair:
    subject = polarity_subject(g, negative=not flip)
    verb = finite(g.dice.skewed(lex.THING_OBJECT), NounPhrase(""), g.tense)
    thing = g.noun("thing").singular
    right, wrong = ("at least", "even") if flip else ("even", "at least")
    return either(f"{subject} {verb} {{}} one {thing}", right, wrong)


def existential_there(g: Grammar, flip: bool) -> Pair:
    """`every` does not follow `there is`; the same words in both."""
    first = g.noun(g.dice.pick(("animal", "person", "thing"))).singular
    second, near = g.noun("landmark").singular, g.dice.pick(NEAR)
    there = f"there {be(NounPhrase(''), g.tense)}"
    article, every = g.dice.pick(("some", "no", "one")), g.dice.pick(("every", "each"))
    return (
        f"{there} {article} {first} {near} {every} {second}",
        f"{there} {every} {first} {near} {article} {second}",
    )


# Verbs and their arguments.


def transitivity(g: Grammar, flip: bool) -> Pair:
    subject, needs, thing = strict_clause(g)
    refuses = g.dice.pick(lex.STRICTLY_INTRANSITIVE)
    adjective, near = g.dice.skewed(lex.THING_ADJECTIVES), g.dice.pick(NEAR[:3])
    with_object, without = (finite(verb, subject, g.tense) for verb in (needs, refuses))
    if flip:
        return either(f"{subject.text} {{}} {near} the {thing}", without, with_object)
    return either(f"{subject.text} {{}} the {adjective} {thing}", with_object, without)


def passive(g: Grammar, flip: bool) -> Pair:
    subject, agent = g.living(False), g.noun_phrase("person", False)
    needs = g.dice.pick(NEEDS_LIVING_OBJECT)
    refuses = g.dice.pick(lex.STRICTLY_INTRANSITIVE)
    if flip:
        place = f"by the {g.noun('landmark').singular}"
        template = f"{subject.text} {have(subject, g.tense)} {{}} {place}"
        return either(template, refuses.participle, needs.participle)
    template = f"{subject.text} {be(subject, g.tense)} {{}} by {agent.text}"
    return either(template, needs.participle, refuses.participle)


# Forms.


def participle(g: Grammar, flip: bool) -> Pair:
    verb = g.dice.pick(lex.IRREGULAR_PARTICIPLES)
    subject = g.living()
    obj = g.noun_phrase("food" if verb in lex.FOOD_OBJECT else "thing").text
    if flip:
        return either(f"{subject.text} {{}} {obj}", verb.past, verb.participle)
    tense = g.dice.pick(("past", "present"))
    template = f"{subject.text} {have(subject, tense)} {{}} {obj}"
    return either(template, verb.participle, verb.past)


def base_after_auxiliary(g: Grammar, flip: bool) -> Pair:
    subject = g.living(False)
    verb, obj = g.transitive()
    if flip:
        return either(f"{subject.text} {{}} {obj.text}", verb.past, verb.base)
    auxiliary = g.dice.pick(("did not", "does not", "can", "will", "must"))
    return either(f"{subject.text} {auxiliary} {{}} {obj.text}", verb.base, verb.past)


def pronoun_case(g: Grammar, flip: bool) -> Pair:
    other, verb = g.living(False), g.dice.skewed(lex.LIVING_OBJECT).past
    subject, obj = g.dice.pick((("he", "him"), ("she", "her"), ("they", "them"), ("we", "us")))
    where = f" {g.place()}" if g.dice.chance(0.5) else ""
    start = f"{g.living(False).text} {g.dice.skewed(lex.SAYING).past} that"
    if flip:
        return either(f"{start} {{}} {verb} {other.text}{where}", subject, obj)
    return either(f"{start} {other.text} {verb} {{}}{where}", obj, subject)


PARADIGMS = (
    Paradigm("agreement_simple", "morphology", "subject_verb_agreement", agreement_simple),
    Paradigm(
        "agreement_phrase_attractor",
        "morphology",
        "subject_verb_agreement",
        agreement_phrase_attractor,
    ),
    Paradigm(
        "agreement_clause_attractor",
        "morphology",
        "subject_verb_agreement",
        agreement_clause_attractor,
    ),
    Paradigm("determiner_noun", "morphology", "determiner_noun_agreement", determiner_noun),
    Paradigm("anaphor_gender", "morphology", "anaphor_agreement", anaphor_gender),
    Paradigm("anaphor_number", "morphology", "anaphor_agreement", anaphor_number),
    Paradigm("anaphor_domain", "syntax", "binding", anaphor_domain),
    Paradigm("object_gap", "syntax", "filler_gap_dependency", object_gap),
    Paradigm("what_or_that", "syntax", "filler_gap_dependency", what_or_that),
    Paradigm("adjunct_island", "syntax", "island_effects", adjunct_island),
    Paradigm("coordinate_island", "syntax", "island_effects", coordinate_island),
    Paradigm("ever_or_already", "semantics", "npi_licensing", ever_or_already),
    Paradigm("negation_scope", "semantics", "npi_licensing", negation_scope),
    Paradigm("even_or_least", "semantics", "quantifiers", even_or_least),
    Paradigm("existential_there", "semantics", "quantifiers", existential_there),
    Paradigm("transitivity", "syntax", "argument_structure", transitivity),
    Paradigm("passive", "syntax", "argument_structure", passive),
    Paradigm("participle", "morphology", "irregular_forms", participle),
    Paradigm("base_after_auxiliary", "morphology", "verb_forms", base_after_auxiliary),
    Paradigm("pronoun_case", "morphology", "pronoun_case", pronoun_case),
)


def pairs(paradigm: Paradigm, seed: int) -> list[Pair]:
    """`PAIRS_PER_PARADIGM` different pairs of reserved sentences, half of them flipped."""
    g = Grammar(seed)
    found: dict[Pair, None] = {}
    while len(found) < PAIRS_PER_PARADIGM:
        g.tense = g.dice.pick(("past", "present"))
        pair = paradigm.write(g, len(found) % 2 == 1)
        end = "?" if pair[0].startswith(QUESTION_WORDS) else "."
        good = sentence(pair[0], end)
        if not reserved(good):
            continue
        bad = sentence(pair[1], end)
        if reserved(bad) and good != bad:
            found[good, bad] = None
    return list(found)


QUESTION_WORDS = ("what ", "who ", "did ", "do ", "does ")
