"""The GPU's checks themselves, on the CPU: they run, pass what is right, and fail what is not."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import models
from tests.gpu import (
    building,
    checks,
    first_step,
    kernel_agreement,
    test_gpu,
    trainer_checks,
    trial_checks,
)
from tests.gpu.ends import assert_gone, python_that, until
from tests.gpu.kernel_cases import CASES, LENGTHS, MIDDLE, Case
from tests.models.triton_interpreter import take_triton
from tests.tiny_text import write_tiny_text
from trainables import finetune as finetune_module
from trainables import trainer as trainer_module
from trainables.checkpoint import TrialFolder
from trainables.corpus import prepare_corpus
from trainables.peaks import dense_bf16_peak
from trainables.step import VARIABLE

ARCH = "lstm"  # the fastest
SHORT = [case for case in CASES if "T=7 " in case.name]
NOT_LONG = [case for case in CASES if int(case.name.split()[0].removeprefix("T=")) <= MIDDLE]
FLOATS = [torch.float32, torch.bfloat16]


@pytest.fixture
def on_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels run in Triton's interpreter."""
    take_triton(monkeypatch)


@pytest.fixture
def rms_norm_case() -> Case:
    return next(case for case in SHORT if case.kernel == "rms_norm")


def wrapped(case: Case, change: Callable[[Tensor], Tensor]) -> Case:
    """The case with a kernel whose first output is changed."""

    def run(**inputs: Tensor) -> Any:
        outputs = case.run(**inputs)
        if isinstance(outputs, Tensor):
            return change(outputs)
        return (change(outputs[0]), *outputs[1:])

    return replace(case, run=run)


# ---- kernels


def test_every_kernel_has_all_lengths() -> None:
    """And one of them at other widths, states or gates."""
    for kernel in {case.kernel for case in CASES}:
        names = [case.name for case in CASES if case.kernel == kernel]
        found = {int(name.split()[0].removeprefix("T=")) for name in names}
        assert set(LENGTHS) <= found
        assert len([name for name in names if name.startswith(f"T={MIDDLE} ")]) > 1
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("case", SHORT, ids=str)
def test_a_right_kernel_passes(case: Case) -> None:
    """On the CPU's own path, and with the same bits at every run."""
    for dtype in case.types:
        assert kernel_agreement.check(case, "cpu", dtype) <= 1
    kernel_agreement.check_repeats(case, "cpu", torch.float32)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("kernel", ["rms_norm", "swiglu"])
def test_a_right_kernel_passes_in_the_interpreter(
    kernel: str, dtype: torch.dtype, on_triton: None
) -> None:
    case = next(case for case in SHORT if case.kernel == kernel)
    assert kernel_agreement.check(case, "cpu", dtype) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("case", SHORT, ids=str)
def test_every_kernel_passes_in_the_interpreter(case: Case, on_triton: None) -> None:
    """Lengths and widths are up to each kernel's own tests: the interpreter is slow."""
    for dtype in case.types:
        assert kernel_agreement.check(case, "cpu", dtype) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("case", NOT_LONG, ids=str)
def test_every_kernel_passes_in_pytorch(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BABYSWEEP_KERNELS", "torch")
    for dtype in case.types:
        assert kernel_agreement.check(case, "cpu", dtype) <= 1


@pytest.mark.parametrize("case", SHORT, ids=str)
@pytest.mark.parametrize("factor", [1.01, math.nan])
def test_a_wrong_output_fails(case: Case, factor: float) -> None:
    """An output that is 1% off, or not a number; its gradients are, too."""
    with pytest.raises(AssertionError, match="output 0"):
        kernel_agreement.check(wrapped(case, lambda y: y * factor), "cpu", torch.float32)


@pytest.mark.parametrize("case", SHORT, ids=str)
def test_a_wrong_gradient_fails(case: Case) -> None:
    """The output is right, but what comes back is 1% too large."""

    def one_percent_more(y: Tensor) -> Tensor:
        return y * 1.01 - (y * 0.01).detach()

    with pytest.raises(AssertionError, match="gradient of"):
        kernel_agreement.check(wrapped(case, one_percent_more), "cpu", torch.float32)


def test_an_entry_that_was_never_written_fails(rms_norm_case: Case) -> None:
    """Fresh memory holds NaN, which the entry then is."""

    def without_the_last_row(y: Tensor) -> Tensor:
        fresh = torch.empty_like(y)
        fresh[:, :-1] = y[:, :-1]
        return fresh

    with pytest.raises(AssertionError, match="output 0"):
        kernel_agreement.check(wrapped(rms_norm_case, without_the_last_row), "cpu", torch.float32)


def test_a_lost_state_fails() -> None:
    """A recurrence that starts from nothing, whatever state it is given."""
    case = next(c for c in CASES if c.kernel == "slstm" and "state=True" in c.name)

    def forgetful(**inputs: Tensor) -> Any:
        return case.run(x=inputs["x"], recurrent=inputs["recurrent"])

    with pytest.raises(AssertionError, match="output 0"):
        kernel_agreement.check(replace(case, run=forgetful), "cpu", torch.float32)


def test_a_run_that_differs_from_the_next_fails(rms_norm_case: Case) -> None:
    noisy = wrapped(rms_norm_case, lambda y: y + 1e-7 * torch.rand_like(y))
    kernel_agreement.check(noisy, "cpu", torch.float32)
    with pytest.raises(AssertionError, match="from run to run"):
        kernel_agreement.check_repeats(noisy, "cpu", torch.float32)


def test_rounding_passes_where_the_result_is_nothing() -> None:
    """As the gradient of one step's queries, which see only themselves; what is more fails."""
    tolerance = kernel_agreement.TOLERANCES[torch.float32]
    nothing = {"gradient of q": torch.zeros(2, 1, 4, 64, dtype=torch.float64)}
    noise = {"gradient of q": torch.full((2, 1, 4, 64), 3e-7)}
    assert 0 < kernel_agreement.compare(noise, nothing, tolerance) <= 1
    with pytest.raises(AssertionError, match="gradient of q"):
        kernel_agreement.compare({"gradient of q": 10 * noise["gradient of q"]}, nothing, tolerance)


def test_an_error_in_many_entries_fails_though_none_is_large() -> None:
    """Each error is within the tolerance of an entry; together they are not."""
    tolerance = kernel_agreement.TOLERANCES[torch.bfloat16]
    exact = {"x": torch.eye(100, dtype=torch.float64)}
    with pytest.raises(AssertionError, match="error of the norm"):
        kernel_agreement.compare({"x": exact["x"] + 0.015}, exact, tolerance)


def assert_nothing_is_small(case: Case) -> None:
    """A result is of order one, or nothing: what is between would be checked too loosely."""
    for name, tensor in kernel_agreement.expectation(case, "cpu", torch.float32).items():
        largest = tensor.abs().max().item()
        assert not 1e-6 < largest < kernel_agreement.SMALL, f"{name}: {largest:.1e}"


@pytest.mark.parametrize("case", SHORT, ids=str)
def test_no_result_is_too_small_to_be_checked(case: Case) -> None:
    assert_nothing_is_small(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in NOT_LONG if case not in SHORT], ids=str)
def test_no_result_of_any_case_is_too_small(case: Case) -> None:
    assert_nothing_is_small(case)


@pytest.mark.parametrize("case", kernel_agreement.nan_cases(), ids=str)
def test_swallowed_nan_fails(case: Case) -> None:
    """Kernels pass NaN on; one that makes numbers of it is found, whichever input it was in."""
    kernel_agreement.check_nan(case, "cpu", torch.float32)
    with pytest.raises(AssertionError, match="swallowed"):
        kernel_agreement.check_nan(wrapped(case, torch.nan_to_num), "cpu", torch.float32)


def test_what_would_be_launched_is_on_record() -> None:
    """Without computing, and in both types: forward and backward of the norm."""
    case = next(case for case in CASES if case.kernel == "rms_norm" and "T=1334" in case.name)
    for dtype in FLOATS:
        launches = kernel_agreement.record(case, dtype)
        assert len(launches) == 2
        assert {launch.module for launch in launches} == {"models.kernels.gpu.rms_norm"}


# ---- models


def test_agreement_passes() -> None:
    checks.check_agreement(ARCH, "cpu", 20)


@pytest.mark.parametrize("name", ["logits", "loss", "lm_head.weight"])
@pytest.mark.parametrize("wrong", [1.01, math.nan])
def test_agreement_fails(name: str, wrong: float) -> None:
    """A tensor that is 1% off, or not a number, is found."""
    want = checks.results(checks.build(ARCH), checks.random_ids(2, 20))
    with pytest.raises(AssertionError, match=name):
        checks.assert_agree({**want, name: wrong * want[name]}, want)


@pytest.mark.parametrize(
    "check",
    [
        checks.check_generation,
        checks.check_padding,
        checks.check_bf16,
        checks.check_small_gradients,
        checks.check_scores,
        checks.check_distillation,
    ],
)
def test_a_right_model_passes(check: Callable[[str, str], None]) -> None:
    check(ARCH, "cpu")


def test_a_model_that_reads_padding_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    build = checks.build

    def deaf(arch: str) -> Any:
        model = build(arch)
        forward = model.forward
        model.forward = lambda attention_mask=None, **inputs: forward(**inputs)
        return model

    monkeypatch.setattr(checks, "build", deaf)
    with pytest.raises(AssertionError, match="relative error"):
        checks.check_padding(ARCH, "cpu")


def test_wrong_scores_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second model to be scored is 1% off."""
    score, calls = checks.token_log_probs, []

    def off(*args: Any, **options: Any) -> list[Any]:
        calls.append(options)
        return [scores * (1.01 if len(calls) > 1 else 1) for scores in score(*args, **options)]

    monkeypatch.setattr(checks, "token_log_probs", off)
    with pytest.raises(AssertionError, match="fp32"):
        checks.check_scores(ARCH, "cpu")


@pytest.mark.slow  # three processes that import everything
def test_sharing_passes(tmp_path: Path) -> None:
    """Two processes on the CPU have the losses of one."""
    text, work = tmp_path / "text", tmp_path / "work"
    text.mkdir()
    work.mkdir()
    write_tiny_text(text)
    corpus = prepare_corpus(str(text), vocab_size=280, cache=tmp_path / "cache")
    checks.check_sharing(ARCH, "cpu", corpus.directory, work)


# ---- trials


@pytest.mark.slow
def test_a_right_trial_passes(tmp_path: Path) -> None:
    """Captured (on the CPU not at all), and resumed: there to the bit."""
    trainer_checks.check_graph(ARCH, "cpu", "fp32", tmp_path)
    assert trainer_checks.check_resumed(ARCH, "cpu", "fp32", tmp_path) == 0


@pytest.mark.slow
@pytest.mark.parametrize("arch", models.architectures())
def test_right_trials_pass(arch: str, tmp_path: Path) -> None:
    """Of every architecture, in pieces as well, and in bf16."""
    trainer_checks.check_pieces(arch, "cpu", tmp_path)
    trainer_checks.check_graph(arch, "cpu", "bf16", tmp_path)
    assert trainer_checks.check_resumed(arch, "cpu", "bf16", tmp_path) == 0


def test_a_step_that_is_not_captured_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it should be: here the device only claims to be one that captures."""
    make_trainer = trainer_checks.make_trainer
    monkeypatch.setattr(
        trainer_checks, "make_trainer", lambda spec, data, _: make_trainer(spec, data, "cpu")
    )
    with pytest.raises(AssertionError, match="without a CUDA graph"):
        trainer_checks.check_graph(ARCH, "cuda", "fp32", tmp_path)


@pytest.mark.slow
def test_a_lost_optimizer_state_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that resumes with its weights alone goes another way."""

    def load_weights_only(self: TrialFolder, path: Path, model: Any, optimizer: Any) -> None:
        load_into(self, path, model, optimizer)
        optimizer.state.clear()

    load_into = TrialFolder.load_into
    monkeypatch.setattr(TrialFolder, "load_into", load_weights_only)
    with pytest.raises(AssertionError, match="relative error"):
        trainer_checks.check_resumed(ARCH, "cpu", "fp32", tmp_path)


class FakeGraphs:
    """Stands for CUDA's: a capture runs no step, nothing may wait in it, and what fails in it
    leaves no gradients; a replay is the step anew."""

    capturing = False

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    def warm_up(self, work: Callable[[], Any]) -> Any:
        return work()

    def record(self, work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        weights = [p.detach().clone() for group in self.parameters() for p in group]
        before = copy.deepcopy(self._optimizer.state_dict())
        FakeGraphs.capturing = True
        try:
            with torch.random.fork_rng(devices=[]):
                result = work()
        finally:
            FakeGraphs.capturing = False
            self.undo(weights, before)
        places = tuple(torch.full_like(each, math.nan) for each in result)

        def replay() -> None:
            for place, value in zip(places, work(), strict=True):
                place.copy_(value)

        return replay, places

    def parameters(self) -> list[list[Tensor]]:
        return [group["params"] for group in self._optimizer.param_groups]

    def undo(self, weights: list[Tensor], state: dict[str, Any]) -> None:
        """As if the step had not been taken."""
        with torch.no_grad():
            for parameter, weight in zip(sum(self.parameters(), []), weights, strict=True):
                parameter.copy_(weight)
        self._optimizer.load_state_dict(state)
        self._optimizer.zero_grad(set_to_none=True)

    @classmethod
    def is_capturing(cls) -> bool:
        """Asked for by what then waits, which is refused."""
        if cls.capturing:
            raise RuntimeError("operation not permitted when stream is capturing")
        return False


class Forgetful(FakeGraphs):
    """Leaves the gradients of a capture that failed."""

    def undo(self, weights: list[Tensor], state: dict[str, Any]) -> None:
        for parameter in sum(self.parameters(), []):
            parameter.grad = torch.ones_like(parameter)


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The device "cuda" is the CPU with `FakeGraphs`."""
    make_trainer = trainer_checks.make_trainer
    monkeypatch.setattr(
        trainer_checks,
        "make_trainer",
        lambda spec, data, device: make_trainer(spec, data, "cpu"),
    )
    monkeypatch.setattr(trainer_module, "CudaRecorder", FakeGraphs)
    monkeypatch.setattr(trainer_module, "has_rate_in_memory", lambda optimizer: True)
    monkeypatch.setattr(
        trainer_module,
        "why_no_graph",
        lambda *_: "" if os.environ.get(VARIABLE) == "1" else "not wanted",
    )
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", FakeGraphs.is_capturing)
    return monkeypatch


def test_a_failed_capture_passes(captured: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trial_checks.check_failed_capture(ARCH, "cuda", tmp_path)


def test_what_a_failed_capture_leaves_is_found(
    captured: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Gradients that the next step would add to; and a capture that does not fail at all."""
    captured.setattr(trainer_module, "CudaRecorder", Forgetful)
    with pytest.raises(AssertionError, match="relative error"):
        trial_checks.check_failed_capture(ARCH, "cuda", tmp_path)
    captured.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    with pytest.raises(AssertionError, match="as a CUDA graph"):
        trial_checks.check_failed_capture(ARCH, "cuda", tmp_path)


def test_milestones_pass(captured: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trial_checks.check_milestones(ARCH, "cuda", "fp32", tmp_path)


def test_a_milestone_that_changes_the_training_is_found(
    captured: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Here the captured trial is left with other weights by its scoring."""
    score = trial_checks.token_log_probs

    def spoil(model: Any, spans: Any) -> Any:
        if os.environ[VARIABLE] == "1":
            with torch.no_grad():
                next(model.parameters()).mul_(1.1)
        return score(model, spans)

    captured.setattr(trial_checks, "token_log_probs", spoil)
    with pytest.raises(AssertionError, match="relative error"):
        trial_checks.check_milestones(ARCH, "cuda", "fp32", tmp_path)


def test_a_captured_teacher_passes(captured: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trainer_checks.check_graph(ARCH, "cuda", "fp32", tmp_path, has_teacher=True)


def test_a_teacher_that_is_not_asked_is_found(captured: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A captured step that knows the next tokens only."""
    objective = trainer_module._objective

    def deaf(spec: Any, model: Any, data: Any, world: Any) -> Any:
        if os.environ[VARIABLE] == "1":
            spec = spec.replace(teacher="", alpha=0.0)
        return objective(spec, model, data, world)

    captured.setattr(trainer_module, "_objective", deaf)
    with pytest.raises(AssertionError, match="relative error"):
        trainer_checks.check_graph(ARCH, "cuda", "fp32", tmp_path, has_teacher=True)


def test_muon_passes(tmp_path: Path) -> None:
    trial_checks.check_muon(ARCH, "cpu", tmp_path)


def test_a_muon_that_lags_is_found(captured: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whose captured step keeps the learning rate of the capture, a Python number."""

    class Frozen(FakeGraphs):
        def record(self, work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
            rates = [group["lr"] for group in self._optimizer.param_groups]
            replay, places = super().record(work)

            def old() -> None:
                for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate
                replay()

            return old, places

    captured.setattr(trainer_module, "CudaRecorder", Frozen)
    with pytest.raises(AssertionError, match="relative error"):
        trial_checks.check_muon(ARCH, "cuda", tmp_path)


def test_a_right_finetuning_passes(tmp_path: Path) -> None:
    trial_checks.check_finetuning("transformer", "cpu", tmp_path)


def test_a_wrong_finetuning_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on the CPU, whose first outcome must not be taken for the second."""
    calls = []

    def wrong_at_last(*args: Any, **options: Any) -> Any:
        calls.append(options["device"])
        if len(calls) == 2:
            rate = finetune_module.learning_rate
            monkeypatch.setattr(finetune_module, "learning_rate", lambda *step: 2 * rate(*step))
        return finetune_module.finetune(*args, **options)

    monkeypatch.setattr(trial_checks, "finetune", wrong_at_last)
    with pytest.raises(AssertionError, match="relative error"):
        trial_checks.check_finetuning("transformer", "cpu", tmp_path)
    assert len(calls) == 2


def test_another_finetuning_is_found() -> None:
    """Whose loss is 1% off, or that judges two sentences otherwise."""

    def outcome(*losses: float, predictions: tuple[int, ...] = (0, 1, 1)) -> Any:
        history = [SimpleNamespace(loss=loss) for loss in losses]
        return SimpleNamespace(history=history, predictions=predictions)

    right = outcome(0.7, 0.5)
    trial_checks.assert_same_finetuning(outcome(0.7, 0.5, predictions=(1, 1, 1)), right)
    for wrong in (outcome(0.7, 0.505), outcome(0.7, 0.5, predictions=(1, 0, 1))):
        with pytest.raises(AssertionError, match=r"relative error|2 of 3 predictions"):
            trial_checks.assert_same_finetuning(wrong, right)


def test_a_pass_over_minimal_pairs_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trial_checks.check_pass(ARCH, "cpu", tmp_path, pairs=20) > 0
    monkeypatch.setattr(trial_checks, "PASS_SECONDS", 0.0)
    with pytest.raises(AssertionError, match="20 minimal pairs took"):
        trial_checks.check_pass(ARCH, "cpu", tmp_path, pairs=20)


@pytest.mark.parametrize("wrong", [1.001, math.nan])
def test_losses_that_differ_fail(wrong: float) -> None:
    trainer_checks.assert_close([2.0, 1.0], [2.0, 1.0], 1e-4)
    with pytest.raises(AssertionError, match="relative error"):
        trainer_checks.assert_close([2.0, wrong], [2.0, 1.0], 1e-4)


def test_the_first_step_is_timed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the process of a trial prints."""
    from triton.runtime.autotuner import Autotuner

    monkeypatch.setattr(Autotuner, "_bench", Autotuner._bench)  # it is watched, and restored
    first_step.main(["train", ARCH, "--size", "mini", "--device", "cpu"])
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(facts["losses"]) == first_step.STEPS
    assert 0 < facts["imported"] <= facts["first_step"] <= facts["all_steps"] <= facts["seconds"]
    assert facts["tuned"] == []


def test_a_job_that_fails_or_hangs_says_so(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="invalid choice"):
        first_step.Job("train", [ARCH], tmp_path, "--size", "huge").result(60)
    job = first_step.Job("train", [ARCH], tmp_path, "--device", "cpu", "--size", "mini")
    with pytest.raises(RuntimeError, match="not ended after"):
        job.result(0.1)


def test_nothing_is_left_of_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor of the processes that compile for it."""
    lines = 'note(subprocess.Popen(["sleep", "60"]).pid, os.getpid())\ntime.sleep(60)'
    monkeypatch.setattr(sys, "executable", python_that(lines, tmp_path))
    job = first_step.Job("build", [ARCH], tmp_path)
    until((tmp_path / "note").exists)
    job.stop()
    assert_gone(tmp_path / "note")


class FakeJob:
    """Ends at once; building fails where it is told to."""

    fails = False

    def __init__(self, action: str, archs: Any, cache: Path) -> None:
        self._action = action

    def result(self, timeout: float) -> dict[str, Any]:
        if self.fails and self._action == "build":
            raise RuntimeError("no compiler")
        return {"action": self._action, "seconds": 1.0}

    def stop(self) -> None:
        pass


@pytest.mark.parametrize("fails", [False, True])
def test_trials_start_when_the_kernels_are_built(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of each architecture and two of some; if building fails, every check says why."""
    builder = SimpleNamespace(finish=lambda: (1.0, ["a_kernel: too large"]))
    monkeypatch.setattr(test_gpu, "Job", FakeJob)
    monkeypatch.setattr(FakeJob, "fails", fails)
    steps = test_gpu.FirstSteps(builder, tmp_path)  # type: ignore[arg-type]
    if fails:
        with pytest.raises(AssertionError, match="not built: no compiler"):
            steps.of(ARCH)
    else:
        assert [facts["action"] for facts in steps.of("build")] == ["build"]
        assert [len(steps.of(arch)) for arch in ("lstm", "xlstm")] == [1, 2]
    steps.stop()


def test_a_run_that_is_stopped_has_lost_least() -> None:
    """Trials, models, first steps; last the cases of kernels, of which there are hundreds."""
    names = [name for name in vars(test_gpu) if name.startswith("test_")]
    places = {name: place for place, name in enumerate(names)}
    some = ["a_captured_step_is_a_step", "it_agrees_with_the_cpu", "the_first_step_comes_soon"]
    found = [places[f"test_{name}"] for name in some]
    assert found == sorted(found)
    cases = ["a_kernel_is_its_reference", "nan_in_nan_out", "two_runs_give_the_same_bits"]
    assert names[-len(cases) :] == [f"test_{name}" for name in cases]


def test_what_is_compiled_alike_is_built_once() -> None:
    """All lengths of a kernel at one width are one task; of their launches few differ."""
    cases = [case for case in CASES if building.group(case) == "rms_norm dim=128"]
    assert [int(case.name.split()[0].removeprefix("T=")) for case in cases] == list(LENGTHS)
    launches = sum((kernel_agreement.record(case, torch.float32) for case in cases), [])
    assert len({*launches}) == 2 * len(cases)
    assert len({launch.kernel for launch in launches}) <= 6


@pytest.mark.parametrize(("failures", "status"), [([], 0), (["a_kernel: too large"], 1)])
def test_what_does_not_build_is_told(
    failures: list[str],
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By the last line, and the status, of building everything."""
    builder = SimpleNamespace(finish=lambda: (1.0, 2 * failures), stop=lambda: None)
    monkeypatch.setattr(building, "Builder", lambda capability: builder)
    assert building.build_all(90) == status
    assert capsys.readouterr().out.splitlines() == [*failures, f"{len(CASES)} cases in 1 s"]


def test_a_kernel_that_shares_too_much_memory_does_not_build(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It compiles, but no H100 launches it."""
    case = next(case for case in SHORT if case.kernel == "rms_norm")
    launches = kernel_agreement.record(case, torch.float32)
    monkeypatch.setattr(building, "compiling_for", lambda capability: contextlib.nullcontext())
    for shared, told in ((232_448, []), (232_449, ["232,449 bytes are shared"])):
        compiled = SimpleNamespace(metadata=SimpleNamespace(shared=shared))
        monkeypatch.setattr(building, "build", lambda launch, compiled=compiled: compiled)
        found = building._build(90, lambda: launches)
        assert [line.partition(": ")[2] for line in found] == len(launches) * told


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("A100-SXM4-40GB", 312e12),  # older drivers leave the maker out
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA A10G", None),
        ("NVIDIA L40", None),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", None),
        ("Tesla V100-SXM2-16GB", None),
    ],
)
def test_peaks_go_by_the_whole_name(name: str, peak: float | None) -> None:
    assert dense_bf16_peak(name) == peak
