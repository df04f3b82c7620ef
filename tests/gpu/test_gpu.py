"""Everything that a GPU can get wrong: `make test-gpu`. Skipped where there is none.

The checks are functions of the device, in `kernel_agreement.py` (a module named `kernels` would
stand in the way of the package that transformers looks for), `checks.py`, `trainer_checks.py` and
`trial_checks.py`; the other tests run them on the CPU. Float32 products are exact here, without
TF32: PyTorch's by its defaults and for cuDNN's LSTM by a switch, those of libraries' Triton by an
environment variable that is part of its cache key. No kernel may be tuned: one configuration each
is what a trial's quick start rests on.

A run from cold takes less than three minutes. One that is stopped has lost least: trials come
first, then models, and last the many cases of each kernel. Meanwhile processes of their own take
the first steps of a trial of every architecture; the tests between models and kernels read what
these say.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import models
from tests.gpu import checks, kernel_agreement, trainer_checks, trial_checks
from tests.gpu.building import Builder
from tests.gpu.first_step import Job
from tests.gpu.kernel_cases import CASES, Case
from tests.tiny_text import write_tiny_text
from trainables.corpus import prepare_corpus

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="no GPU: torch.cuda.is_available() is False"
    ),
]
GPU = "cuda"
ARCHITECTURES = models.architectures()
SECONDS_TO_FIRST_STEP = 60.0  # at `base`, with nothing built before
FIRST_STEPS_END = 150.0  # seconds to wait for them
TWINS = ("xlstm", "mamba")  # architectures with two trials at once on the GPU

for_each_architecture = pytest.mark.parametrize("arch", ARCHITECTURES)
for_each_precision = pytest.mark.parametrize("precision", ["fp32", "bf16"])
for_each_type = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
errors: dict[str, float] = {}


@pytest.fixture(scope="module", autouse=True)
def exact_products() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_F32_DEFAULT", "ieee")
        patch.setattr(torch.backends.cudnn, "allow_tf32", False)
        yield


@pytest.fixture(scope="module", autouse=True)
def nothing_is_tuned() -> Iterator[None]:
    """Fail where a library would try one configuration of a kernel after the other."""
    from triton.runtime.autotuner import Autotuner

    def refuse(self: Any, *_: Any, **__: Any) -> None:
        pytest.fail(f"{self.base_fn} is tuned: {len(self.configs)} configurations")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Autotuner, "_bench", refuse)
        yield


@pytest.fixture(scope="module", autouse=True)
def builder(exact_products: None) -> Iterator[Builder]:
    """What the checks launch is compiled ahead of them; their errors are printed at the end.

    Under the environment of the checks, which Triton's cache tells apart.
    """
    major, minor = torch.cuda.get_device_capability()
    builder = Builder(10 * major + minor)
    yield builder
    builder.stop()
    print("\nlargest error of each kernel, over its tolerance:")
    for kernel, error in errors.items():
        print(f"  {kernel:34} {error:.2f}")


@pytest.fixture(scope="module", autouse=True)
def first_steps(builder: Builder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FirstSteps]:
    steps = FirstSteps(builder, tmp_path_factory.mktemp("cold"))
    yield steps
    steps.stop()


class FirstSteps:
    """A sweep's first minute, in the background: kernels built, then trials that start together.

    It begins when the checks' own kernels are built, with the processor to itself but for them.
    """

    def __init__(self, builder: Builder, cache: Path) -> None:
        self._builder, self._cache = builder, cache
        self._jobs: dict[str, list[Job]] = {}
        self._results: dict[str, list[dict[str, Any]]] = {}
        self._failure = ""
        self._starter = threading.Thread(target=self._start, daemon=True)
        self._starter.start()

    def _start(self) -> None:
        seconds, failures = self._builder.finish()
        print(f"\nkernels of all checks built in {seconds:.0f} s")
        print("".join(f"does not compile: {failure}\n" for failure in failures), end="")
        self._jobs["build"] = [Job("build", ARCHITECTURES, self._cache)]
        try:
            self._read("build")
        except RuntimeError as error:
            self._failure = str(error)
            return
        for arch in (*ARCHITECTURES, *TWINS):
            self._jobs.setdefault(arch, []).append(Job("train", [arch], self._cache))

    def of(self, name: str) -> list[dict[str, Any]]:
        """What the trials of an architecture say, or the one process that builds ("build")."""
        self._starter.join(FIRST_STEPS_END)
        assert not self._failure, f"the kernels were not built: {self._failure}"
        assert not self._starter.is_alive(), "the kernels were not built in time"
        return self._read(name)

    def _read(self, name: str) -> list[dict[str, Any]]:
        if name not in self._results:
            self._results[name] = [job.result(FIRST_STEPS_END) for job in self._jobs[name]]
        return self._results[name]

    def stop(self) -> None:
        for job in sum(self._jobs.values(), []):
            job.stop()
        self._starter.join(FIRST_STEPS_END)


# ---- trials


@for_each_precision
@for_each_architecture
def test_a_captured_step_is_a_step(
    arch: str, precision: str, tmp_path: Path, builder: Builder
) -> None:
    """The losses of a trial in a CUDA graph, to 1e-4 in float32 and 2e-3 in bf16."""
    builder.wait_for_steps(arch)
    trainer_checks.check_graph(arch, GPU, precision, tmp_path)


def test_a_captured_step_drops_what_a_step_drops(tmp_path: Path) -> None:
    """Dropout is a function of the step's number, in a CUDA graph as well."""
    trainer_checks.check_graph("lstm", GPU, "fp32", tmp_path, dropout=0.2)


def test_a_captured_step_with_a_teacher_is_a_step(tmp_path: Path) -> None:
    trainer_checks.check_graph("transformer", GPU, "fp32", tmp_path, has_teacher=True)


@for_each_precision
def test_milestones_change_nothing(precision: str, tmp_path: Path) -> None:
    """Models kept, scored and validated within an epoch: captured and not, the losses are equal."""
    trial_checks.check_milestones("lstm", GPU, precision, tmp_path)


def test_muon_trains_as_on_the_cpu(tmp_path: Path) -> None:
    """To 5e-3, for its products are in bf16."""
    trial_checks.check_muon("transformer", GPU, tmp_path)


@for_each_architecture
def test_a_batch_in_pieces_is_a_batch(arch: str, tmp_path: Path) -> None:
    """In micro-batches, and with activations computed twice, the losses are the same to 1e-4."""
    trainer_checks.check_pieces(arch, GPU, tmp_path)


@for_each_precision
@for_each_architecture
def test_resumed_is_uninterrupted(arch: str, precision: str, tmp_path: Path) -> None:
    """To 1e-4 in float32 and 2e-3 in bf16; prints whether it is to the bit."""
    error = trainer_checks.check_resumed(arch, GPU, precision, tmp_path)
    print(f"\n{arch} {precision}: resumed and uninterrupted differ by {error:.0e}")


def test_a_micro_batch_is_found(tmp_path: Path) -> None:
    trainer_checks.check_automatic_micro_batch(GPU, tmp_path)


def test_out_of_memory_is_answered(tmp_path: Path) -> None:
    trainer_checks.check_out_of_memory(GPU, tmp_path)


def test_a_trial_keeps_to_its_share() -> None:
    trainer_checks.check_share(GPU)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@for_each_architecture
def test_two_gpus_have_the_losses_of_one(arch: str, tmp_path: Path) -> None:
    """A trial's steps and validation with DistributedDataParallel, to 1e-4."""
    text, work = tmp_path / "text", tmp_path / "work"
    text.mkdir()
    work.mkdir()
    write_tiny_text(text)
    corpus = prepare_corpus(str(text), vocab_size=280, cache=tmp_path / "cache")
    checks.check_sharing(arch, GPU, corpus.directory, work)


# ---- models


@for_each_architecture
@pytest.mark.parametrize("time", [48, 96])
def test_it_agrees_with_the_cpu(arch: str, time: int) -> None:
    """Logits and loss to 1e-4, gradients to 1e-3, relative to the largest entry of each; below
    and above 64 steps, where kernels change their form."""
    checks.check_agreement(arch, GPU, time)


@for_each_architecture
def test_cached_generation_is_the_forward(arch: str) -> None:
    """Logits of the generated tokens are those of one forward over them, to 1e-4."""
    checks.check_generation(arch, GPU)


@for_each_architecture
def test_padding_changes_nothing(arch: str) -> None:
    """On either side, to 1e-4."""
    checks.check_padding(arch, GPU)


@for_each_architecture
def test_bf16_trains(arch: str) -> None:
    """The loss is within 1% of float32, and falls."""
    checks.check_bf16(arch, GPU)


@for_each_architecture
def test_small_gradients_survive_bf16(arch: str) -> None:
    checks.check_small_gradients(arch, GPU)


@for_each_architecture
def test_scores_are_those_of_the_cpu(arch: str) -> None:
    """In float32 to 1e-4, in bf16 to 5%."""
    checks.check_scores(arch, GPU)


@for_each_architecture
def test_distillation_is_that_of_the_cpu(arch: str) -> None:
    """Loss to 1e-4, the student's gradients to 1e-3."""
    checks.check_distillation(arch, GPU)


@pytest.mark.parametrize("arch", ["transformer", "hgrn2"])
def test_finetuning_is_that_of_the_cpu(arch: str, tmp_path: Path) -> None:
    """Losses to 1e-3, predictions but for one."""
    trial_checks.check_finetuning(arch, GPU, tmp_path)


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for those that the first pass writes."""
    return tmp_path_factory.mktemp("benchmarks")


@for_each_architecture
def test_minimal_pairs_are_scored_in_seconds(arch: str, benchmarks: Path) -> None:
    seconds = trial_checks.check_pass(arch, GPU, benchmarks)
    print(f"\n{arch}: {trial_checks.PAIRS:,} minimal pairs scored in {seconds:.1f} s")


# ---- trials that start together, in processes of their own


@for_each_architecture
def test_the_first_step_comes_soon(arch: str, first_steps: FirstSteps) -> None:
    """Within a minute at `base` from an empty cache, though all architectures start together and
    share the machine with the checks: building for all, then the trial's own start."""
    (built_before,) = first_steps.of("build")
    (facts, *_) = first_steps.of(arch)
    built = built_before["seconds"]
    print(
        f"\n{arch}: kernels of all built in {built:.0f} s, first step {facts['first_step']:.0f} s "
        f"after its start (imports {facts['imported']:.0f} s), {facts['step']}; "
        f"{len(os.sched_getaffinity(0))} CPUs"
    )
    assert facts["step"].startswith("as a CUDA graph")
    assert facts["tuned"] == built_before["tuned"] == []
    assert built + facts["first_step"] <= SECONDS_TO_FIRST_STEP


@pytest.mark.parametrize("arch", TWINS)
def test_trials_beside_others_have_the_losses_of_one(arch: str, first_steps: FirstSteps) -> None:
    """Two equal trials at the same time, with five others on the GPU, to 2e-3 in bf16."""
    first, second = first_steps.of(arch)
    trainer_checks.assert_close(first["losses"], second["losses"], 2e-3)


# ---- a failure on purpose: behind what its leftovers could spoil, but for the kernels


def test_a_capture_that_fails_leaves_the_steps(tmp_path: Path) -> None:
    """To 1e-4; and the next trial of the process can be captured, dropout and all."""
    trial_checks.check_failed_capture("transformer", GPU, tmp_path)


# ---- kernels


@pytest.mark.parametrize(
    ("case", "dtype"),
    [pytest.param(c, d, id=f"{c}-{str(d)[6:]}") for c in CASES for d in c.types],
)
def test_a_kernel_is_its_reference(case: Case, dtype: torch.dtype, builder: Builder) -> None:
    """Outputs, states and gradients, in float32 and in bf16."""
    builder.wait_for(case, dtype)
    name = f"{case.kernel} {str(dtype)[6:]}"
    error = kernel_agreement.check(case, GPU, dtype)
    errors[name] = max(errors.get(name, 0.0), error)


@for_each_type
@pytest.mark.parametrize("case", kernel_agreement.nan_cases(), ids=str)
def test_nan_in_nan_out(case: Case, dtype: torch.dtype) -> None:
    kernel_agreement.check_nan(case, GPU, dtype)


@for_each_type
@pytest.mark.parametrize("case", kernel_agreement.nan_cases(), ids=str)
def test_two_runs_give_the_same_bits(case: Case, dtype: torch.dtype) -> None:
    kernel_agreement.check_repeats(case, GPU, dtype)
