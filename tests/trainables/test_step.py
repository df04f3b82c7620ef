"""A recorded step replays what an unrecorded one does, with each step's own inputs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

import models
from models.kernels.gpu.launch import recording
from tests.trainables.test_spec import SPEC
from trainables.corpus import Blocks
from trainables.memory import OutOfMemory
from trainables.objectives import DistillationObjective, NextTokenObjective
from trainables.optim import build_optimizer, set_learning_rate
from trainables.step import WARM_UP, RecordedStep, Step, has_dropout, why_no_graph
from trainables.trainer import Trainer, TrialData, World

CPU = torch.device("cpu")


class FakeGraphs:
    """Records as a CUDA graph does, as far as a CPU can: recording does nothing, a replay reads
    tensors anew, finds the Python numbers of the recording, and leaves its results in place."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.warm_ups = self.replays = 0

    def warm_up(self, work):
        self.warm_ups += 1
        return work()

    def record(self, work):
        rates = [group["lr"] for group in self.optimizer.param_groups]
        result = torch.full((), torch.nan), torch.full((), torch.nan)

        def replay():
            self.replays += 1
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            for place, value in zip(result, work(), strict=True):
                place.copy_(value)

        return replay, result


class Refusing(FakeGraphs):
    """A device on which nothing can be recorded."""

    def record(self, work):
        raise RuntimeError("operation not permitted when stream is capturing\nmore lines")


class Full(FakeGraphs):
    """A device whose memory runs out as the step is recorded; the capture's end may fail, too."""

    def __init__(self, optimizer, ends_well=True):
        super().__init__(optimizer)
        self.ends_well = ends_well

    def record(self, work):
        try:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        except torch.OutOfMemoryError:
            if self.ends_well:
                raise
            raise RuntimeError("CUDA error: the capture was unjoined")  # noqa: B904


def small_step(*, dropout=0.0, recordable=True, micro_batch=2):
    """A step of a language model of one layer, and its optimizer."""
    torch.manual_seed(0)
    config = models.build_config("lstm", "mini", vocab_size=16, context=8)
    config.hidden_size = config.embedding_size = 8
    config.num_hidden_layers, config.dropout = 1, dropout
    model = models.build_model(config)
    optimizer = build_optimizer(model, SPEC, recordable=recordable)
    step = Step(
        NextTokenObjective(model),
        model.parameters(),
        optimizer,
        scale=1 / (4 * 8),
        micro_batch=micro_batch,
        grad_clip=1.0,
        bf16=False,
    )
    return step, optimizer, model


def run(step, optimizer, steps=8):
    """Results of steps whose batch, seed and learning rate all differ."""
    results = []
    for index in range(steps):
        generator = torch.Generator().manual_seed(index)
        ids = torch.randint(16, (4, 9), generator=generator)
        torch.manual_seed(100 + index)
        set_learning_rate(optimizer, 1e-2 / (index + 1))
        results.append(step((ids[:, :-1].contiguous(), ids[:, 1:].contiguous())))
    return [tuple(value.item() for value in result) for result in results]


def assert_same_parameters(left, right):
    for a, b in zip(left.parameters(), right.parameters(), strict=True):
        assert torch.equal(a, b)


def test_replays_see_new_tokens_rates_and_seeds():
    """Results, kept until the end, and parameters are those of a step that is never recorded."""
    plain, plain_optimizer, plain_model = small_step(dropout=0.2)
    expected = run(plain, plain_optimizer)
    step, optimizer, model = small_step(dropout=0.2)
    graphs = FakeGraphs(optimizer)
    recorded = RecordedStep(step, graphs, pytest.fail)
    assert run(recorded, optimizer) == expected
    assert_same_parameters(model, plain_model)
    assert (graphs.warm_ups, graphs.replays) == (WARM_UP, 8 - WARM_UP)
    assert recorded.is_recorded


def test_a_learning_rate_outside_of_memory_would_be_found():
    """The fake graph keeps a Python number, as a real one does."""
    plain, plain_optimizer, _ = small_step()
    step, optimizer, _ = small_step(recordable=False)
    recorded = RecordedStep(step, FakeGraphs(optimizer), pytest.fail)
    assert run(recorded, optimizer) != run(plain, plain_optimizer)


def test_a_step_that_cannot_be_recorded_goes_on_without():
    """One line says why, and nothing is lost or done twice."""
    plain, plain_optimizer, plain_model = small_step()
    expected = run(plain, plain_optimizer)
    step, optimizer, model = small_step()
    said = []

    recorded = RecordedStep(step, Refusing(optimizer), said.append)
    assert run(recorded, optimizer) == expected
    assert_same_parameters(model, plain_model)
    (line,) = said
    assert "operation not permitted" in line
    assert "more lines" not in line
    assert recorded.is_settled
    assert not recorded.is_recorded


@pytest.mark.parametrize("ends_well", [True, False])
def test_memory_that_runs_out_in_a_recording_is_answered(
    ends_well, tiny_spec, tiny_corpus, monkeypatch
):
    """With the micro-batch that would fit, as in any other step: nothing goes on slower instead."""
    blocks = (
        Blocks(tiny_corpus.train, tiny_spec.context),
        Blocks(tiny_corpus.dev, tiny_spec.context),
    )
    data = TrialData(tiny_corpus, *blocks, tiny_corpus.tokenizer(), None)
    memory = SimpleNamespace(room=10**9, device_name="a made-up GPU", lost=0)
    trainer = Trainer(tiny_spec, data, World(), None, memory=memory)
    said = []
    trainer._step = RecordedStep(trainer._step, Full(trainer.optimizer, ends_well), said.append)
    monkeypatch.setattr(Trainer, "_need", lambda self, size, memory: (10**9 + 1) * (size > 2))
    for _ in range(WARM_UP):
        trainer.step()
    with pytest.raises(OutOfMemory, match="4 sequences does not fit .*; --micro-batch 2 would"):
        trainer.step()
    assert said == []


@pytest.mark.parametrize("recordable", [True, False])
def test_both_kinds_of_optimizer_step_alike(recordable):
    """A learning rate in memory changes a step by the rounding of that rate only."""
    plain, plain_optimizer, plain_model = small_step(recordable=False)
    run(plain, plain_optimizer)
    step, optimizer, model = small_step(recordable=recordable)
    run(step, optimizer)
    for a, b in zip(model.parameters(), plain_model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_the_reasons_against_a_graph(monkeypatch):
    """On the CPU, between workers and where the variable says so a step is not captured."""
    gpu = torch.device("cuda")
    assert why_no_graph(gpu, 1) == ""
    assert "CPU" in why_no_graph(CPU, 1)
    assert "2 workers" in why_no_graph(gpu, 2)
    monkeypatch.setenv("BABYSWEEP_CUDA_GRAPH", "0")
    assert "BABYSWEEP_CUDA_GRAPH=0" in why_no_graph(gpu, 1)
    monkeypatch.setenv("BABYSWEEP_CUDA_GRAPH", "no")
    with pytest.raises(ValueError, match="BABYSWEEP_CUDA_GRAPH must be 0 or 1, not 'no'"):
        why_no_graph(gpu, 1)


def test_dropout_is_found():
    assert has_dropout(nn.Sequential(nn.Dropout(0.1)))
    assert not has_dropout(nn.Sequential(nn.Dropout(0.0), nn.Linear(2, 2)))


def test_a_trial_with_recorded_steps_is_a_trial(tiny_spec, tiny_corpus):
    """Through a trainer, past a validation in between, recorded steps end with the same bits."""
    blocks = (
        Blocks(tiny_corpus.train, tiny_spec.context),
        Blocks(tiny_corpus.dev, tiny_spec.context),
    )
    data = TrialData(tiny_corpus, *blocks, tiny_corpus.tokenizer(), None)
    plain = Trainer(tiny_spec, data, World(), 3)
    plain.optimizer = build_optimizer(plain.model, tiny_spec, recordable=True)
    plain._step = plain._step_of(plain.objective, 3)
    recorded = Trainer(tiny_spec, data, World(), 3)
    recorded.optimizer = build_optimizer(recorded.model, tiny_spec, recordable=True)
    recorder = FakeGraphs(recorded.optimizer)
    recorded._step, reason = recorded._build_step(recorder)
    assert (reason, recorded.step_in_words) == ("", None)
    losses = []
    for trainer in (plain, recorded):
        steps = [trainer.step()[0].item() for _ in range(WARM_UP + 2)]
        validation = trainer.validate()
        losses.append([*steps, *validation, trainer.step()[0].item()])
    assert losses[0] == losses[1]
    assert_same_parameters(plain.model, recorded.model)
    assert recorded.step_in_words == ("as a CUDA graph; 3 of 4 sequences at once; activations kept")
    assert plain.step_in_words.startswith("without a CUDA graph (on the CPU); 3 of 4")


@pytest.mark.parametrize(("optimizer", "is_recorded"), [("adamw", True), ("muon", False)])
def test_a_rate_that_a_graph_would_keep_is_not_recorded(
    optimizer, is_recorded, tiny_spec, tiny_corpus, monkeypatch
):
    """Where steps are recorded, those of Muon are not; what MLflow is told names the reason."""
    blocks = (
        Blocks(tiny_corpus.train, tiny_spec.context),
        Blocks(tiny_corpus.dev, tiny_spec.context),
    )
    data = TrialData(tiny_corpus, *blocks, tiny_corpus.tokenizer(), None)
    trainer = Trainer(tiny_spec.replace(optimizer=optimizer), data, World(), None)
    trainer.optimizer = build_optimizer(trainer.model, trainer.spec, recordable=True)
    monkeypatch.setattr("trainables.trainer.why_no_graph", lambda device, workers: "")
    monkeypatch.setattr("trainables.trainer.CudaRecorder", FakeGraphs)
    trainer._step, trainer._why_no_graph = trainer._build_step(None)
    assert isinstance(trainer._step, RecordedStep) == is_recorded
    for _ in range(WARM_UP + 1):
        trainer.step()
    how = (
        "as a CUDA graph" if is_recorded else "without a CUDA graph (the optimizer's learning rate"
    )
    assert trainer.step_in_words.startswith(how)


@pytest.mark.parametrize("arch", models.architectures())
def test_a_step_reads_nothing_from_the_device(arch):
    """With fake tensors, which have no values, a whole step runs: forward, loss, backward,
    clipping and AdamW."""
    with FakeTensorMode(), recording():
        assert_reads_nothing(NextTokenObjective(fake_model(arch)))


def test_a_step_with_a_teacher_reads_nothing_from_the_device():
    with FakeTensorMode(), recording():
        teachers = [fake_model("lstm")]
        assert_reads_nothing(DistillationObjective(fake_model("lstm"), teachers, 0.5, 2.0, False))


def fake_model(arch):
    return models.build_model(models.build_config(arch, "mini", vocab_size=64, context=32))


def assert_reads_nothing(objective):
    """Take two steps of two micro-batches. Call it under a `FakeTensorMode`."""
    optimizer = build_optimizer(objective.model, SPEC, recordable=True)
    parameters = objective.model.parameters()
    sizes = {"scale": 1 / (4 * 32), "micro_batch": 2}
    step = Step(objective, parameters, optimizer, grad_clip=1.0, bf16=True, **sizes)
    ids = torch.zeros(4, 32, dtype=torch.int64)
    for _ in range(2):
        nats, norm = step((ids, ids.clone()))
        assert nats.shape == norm.shape == ()
    with pytest.raises(DataDependentOutputException):
        nats.item()  # as a read in the step would have raised
