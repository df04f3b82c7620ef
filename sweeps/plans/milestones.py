"""Numbers of words that a training's milestones are set at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from analysis.errors import named
from analysis.wording import count
from sweeps.plans.common import TrainingSetup
from trainables.checkpoint import TrialFolder
from trainables.corpus import Blocks, Corpus
from trainables.milestones import BABYLM, is_seen, milestone_step, words_of
from trainables.spec import TrialSpec
from trainables.trainer import steps_per_epoch

ALL_OF_BABYLM = "babylm"
_LONGEST_WORDS = 30
"""Bytes of one, on average, in text that parts its words with white space: English has 6, Russian
13, Chinese lines more than 50."""


def plan_milestones(texts: Sequence[str], setup: TrainingSetup, base: TrialSpec) -> tuple[int, ...]:
    """The numbers of words that texts name, ascending, each seen by a trial of this spec.

    Args:
        texts: numbers, such as 1M, or "babylm" for those of the challenge that are seen.
        setup: of the command.
        base: of the longest trial.

    Raises:
        ValueError: a text is neither, or more words than are seen, or the corpus has no words to
            count.
    """
    if not texts:
        return ()
    blocks = Blocks(setup.corpus.train, base.context)
    total_steps = base.epochs * steps_per_epoch(base, len(blocks))
    tokens = total_steps * base.batch_size * base.context
    seen = tokens * setup.corpus.train_words // setup.corpus.train_tokens
    numbers = [text for text in texts if text.lower() != ALL_OF_BABYLM]
    with named("--milestones"):
        given = set(map(words_of, numbers))
        _check_words(setup.corpus)
        for words in sorted(given):
            if not is_seen(words, seen):
                raise ValueError(
                    f"{words:,} is more than the {count(seen, 'word')} that are seen in "
                    f"{count(base.epochs, 'epoch')}: take fewer words, or more --epochs"
                )
        if len(numbers) < len(texts):
            if not is_seen(BABYLM[0], seen):
                raise ValueError(
                    f"{ALL_OF_BABYLM} begins at {count(BABYLM[0], 'word')}, {seen:,} are seen in "
                    f"{count(base.epochs, 'epoch')}: name numbers of words"
                )
            given |= {words for words in BABYLM if is_seen(words, seen)}
    return tuple(sorted(given))


def _check_words(corpus: Corpus) -> None:
    if corpus.train_bytes > _LONGEST_WORDS * corpus.train_words:
        raise ValueError(
            f"words are counted between white space, and {corpus.name} has "
            f"{count(corpus.train_words, 'word')} so in {corpus.train_bytes:,} bytes: after which "
            "of them a model is kept would mean nothing; leave --milestones out"
        )


def ended_without(
    trials: Iterable[TrialFolder], corpus: Corpus, milestones: Sequence[int]
) -> list[TrialFolder]:
    """Trials that ended before the models of these milestones, which they came to, were asked for:
    there is no way back to them."""
    found = []
    for trial in trials:
        outcome, spec, began = trial.outcome, trial.spec, trial.began
        if outcome is None or not outcome.history:
            continue
        total, kept = outcome.history[-1].step, trial.models
        steps = {words: milestone_step(spec, corpus, words, total) for words in milestones}
        if any(began < step <= total and words not in kept for words, step in steps.items()):
            found.append(trial)
    return found
