"""What is checked of trials in unusual courses, and of what comes behind a trial, as functions of
the device: captures that fail, milestones, Muon, teachers, fine-tuning, scoring."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from analysis.benchmarks import glue, load_suite
from analysis.benchmarks.classification import Example, TaskData
from analysis.benchmarks.scoring import Span, token_log_probs
from analysis.benchmarks.suite import Suite
from tests.gpu import checks, trainer_checks
from tests.gpu.trainer_checks import STEPS, TOLERANCES, assert_close, assert_learns, graphs
from trainables.corpus import mini_benchmark
from trainables.corpus.tokenizer import train_tokenizer
from trainables.finetune import finetune
from trainables.finetune_spec import FinetuneOutcome, FinetuneSpec, model_hash
from trainables.step import WARM_UP
from trainables.trainer import Trainer

MUON_TOLERANCE = 5e-3
"""Greatest relative error of a loss: Muon multiplies in bf16, whose rounding differs."""
FINETUNING_TOLERANCE = 1e-3
PAIRS = 2000
PASS_SECONDS = 20.0
"""Most for that many minimal pairs, at `mini`, with all that is built for them."""
VOCAB = 285  # of the sentences' tokenizer: their words are few
WORDS = ("cat", "dog", "sees", "likes", "runs", "here")


def check_failed_capture(arch: str, device: str, folder: Path) -> None:
    """A capture that fails leaves the losses of steps that are not captured; and the process can
    capture another trial, whose dropout reads the generator."""
    spec = trainer_checks.make_spec(arch)
    data = trainer_checks.make_data(spec, folder)
    with graphs(False):
        want = trainer_checks.losses_of(trainer_checks.make_trainer(spec, data, device), STEPS)
    with graphs(True):
        trainer = trainer_checks.make_trainer(spec, data, device)
        trainer.objective.register_forward_hook(_wait_while_capturing)
        got = trainer_checks.losses_of(trainer, STEPS)
    words = trainer.step_in_words or ""
    assert words.startswith("without a CUDA graph"), words
    assert "captur" in words, f"it fails for another reason: {words}"
    assert_learns(want)
    assert_close(got, want, TOLERANCES["fp32"])
    del trainer
    second = folder / "second"
    second.mkdir()
    trainer_checks.check_graph("lstm", device, "fp32", second, dropout=0.2)


def _wait_while_capturing(module: nn.Module, inputs: Any, loss: Tensor) -> None:
    """Read the loss, which no device allows meanwhile."""
    if torch.cuda.is_current_stream_capturing():
        loss.item()


def check_milestones(arch: str, device: str, precision: str, folder: Path) -> None:
    """Models kept, scored and validated in the middle of epochs change nothing of a captured
    training, nor does the capture change what is scored there."""
    spec = trainer_checks.make_spec(arch, precision=precision, epochs=2)
    data = trainer_checks.make_data(spec, folder)
    found = []
    for wanted in (True, False):
        with graphs(wanted):
            trainer = trainer_checks.make_trainer(spec, data, device)
            found.append(_with_milestones(trainer, folder / f"graphs {wanted}"))
            trainer_checks.assert_captured(trainer, wanted and device != "cpu")
    assert_learns([found[1][0], found[1][-1]])
    assert_close(found[0], found[1], TOLERANCES[precision])


def _with_milestones(trainer: Trainer, study: Path) -> list[float]:
    """Losses of two epochs, and at each milestone the score of some tokens and validation: before
    the capture, just after it, and in the second epoch."""
    spec = trainer.spec
    folder = trainer_checks.TrialFolder.of(study, spec)
    ids = checks.random_ids(1, 60, trainer_checks.VOCAB)[0].tolist()
    spans = [Span(tuple(ids[:end]), 1) for end in (7, 33, 60)]
    losses = []
    for milestone in (WARM_UP - 1, WARM_UP + 1, STEPS + 3, 2 * STEPS):
        losses += trainer_checks.losses_of(trainer, milestone - trainer.progress.step)
        tokenizer = trainer_checks.tokenizer()
        folder.keep_model(milestone, trainer.model, tokenizer, spec, trainer.progress)
        scores = token_log_probs(trainer.model, spans)
        losses += [trainer.validate()[0], sum(float(each.sum()) for each in scores)]
    return losses


def check_muon(arch: str, device: str, folder: Path) -> None:
    """A trial with Muon has the losses of one on the CPU, and, if its step can be captured at all,
    those of one that is not."""
    spec = trainer_checks.make_spec(arch, optimizer="muon")
    data = trainer_checks.make_data(spec, folder)
    on_cpu = trainer_checks.losses_of(trainer_checks.make_trainer(spec, data, "cpu"), STEPS)
    found = []
    for wanted in (True, False):
        with graphs(wanted):
            trainer = trainer_checks.make_trainer(spec, data, device)
            found.append(trainer_checks.losses_of(trainer, STEPS))
    assert_learns(on_cpu)
    assert_close(found[1], on_cpu, MUON_TOLERANCE)
    assert_close(found[0], found[1], TOLERANCES["fp32"])


def check_finetuning(arch: str, device: str, folder: Path) -> None:
    """Two epochs on sentences with two labels have the losses of the CPU, and but for one
    sentence at most its predictions. Of an architecture without dropout, which draws otherwise."""
    model = folder / "model"
    checks.build(arch).save_pretrained(model)
    data = sentences()
    texts = [text for example in data.train for text in example.texts]
    train_tokenizer(texts, VOCAB).save_pretrained(model)
    changes = {"lr": 1e-3, "batch_size": 8, "epochs": 2, "max_length": 32, "head_dropout": 0.0}
    settings = glue.settings("2025", data.task.name, changes)
    spec = FinetuneSpec(model_hash(model), data.task.name, data.hash, "2025", settings)
    with _arithmetic_kept():
        want, got = (
            finetune(spec, model, data, folder / name, device=torch.device(place))
            for name, place in (("want", "cpu"), ("got", device))  # an outcome would be read again
        )
    assert_same_finetuning(got, want)


def assert_same_finetuning(got: FinetuneOutcome, want: FinetuneOutcome) -> None:
    """Losses of all epochs to the tolerance, and the predictions but for one."""
    losses = [[epoch.loss for epoch in outcome.history] for outcome in (got, want)]
    assert_learns(losses[1])
    assert_close(*losses, FINETUNING_TOLERANCE)
    differing = sum(a != b for a, b in zip(got.predictions, want.predictions, strict=True))
    assert differing <= 1, f"{differing} of {len(want.predictions)} predictions differ"


def sentences() -> TaskData:
    """Whether "good" or "bad" is among other words: 80 sentences to learn from, 40 to judge."""
    chance = random.Random(0)

    def example() -> Example:
        words, label = chance.choices(WORDS, k=chance.randint(2, 8)), chance.randrange(2)
        words[chance.randrange(len(words))] = ("bad", "good")[label]
        return Example((" ".join(words),), label)

    train, valid = (tuple(example() for _ in range(count)) for count in (80, 40))
    return TaskData(glue.find_task("sst2"), train, valid)


@contextlib.contextmanager
def _arithmetic_kept() -> Iterator[None]:
    """A fine-tuning sets the process's threads and float32 products up for its device."""
    threads, products = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(products)


def check_pass(arch: str, device: str, folder: Path, pairs: int = PAIRS) -> float:
    """A pass over so many minimal pairs, with all that is built for it; returns its seconds."""
    (benchmark,) = load_suite(str(mini_benchmark(folder)), "2025", ["blimp"]).benchmarks
    suite = Suite((benchmark.part(range(pairs)),), "2025")
    texts = [text for item in benchmark.items for text in item.options]
    tokenizer, model = train_tokenizer(texts, checks.VOCAB), checks.build(arch).to(device)
    started = time.monotonic()
    score = suite.evaluate(model, tokenizer).benchmarks["blimp"]
    seconds = time.monotonic() - started
    assert 0 <= score <= 100, score
    assert seconds <= PASS_SECONDS, f"{pairs} minimal pairs took {seconds:.1f} s"
    return seconds
