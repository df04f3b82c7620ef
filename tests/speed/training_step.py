"""What the measuring processes compute: the peak of matrix products, and whole training steps."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import models
from models.kernels import native
from models.kernels.linear_distillation import FactoredLogits, linear_distillation_reference
from tests.speed import library_models
from tests.speed.processes import Row, Shape
from trainables.device import default_precision, set_up_device
from trainables.objectives import DistillationObjective, NextTokenObjective, linear_cross_entropy

CHECKED_SEQUENCES, CHECKED_LENGTH = 2, 150  # more than two chunks of any kernel, and no multiple


class Machine:
    """What the measurements depend on."""

    def __init__(self, threads: int) -> None:
        set_up_device(threads)

    def facts(self) -> dict[str, Any]:
        """Names of the architectures, precisions and paths that run here, and versions."""
        has_bf16 = default_precision(0, width=2**20) == "bf16"
        return {
            "architectures": models.architectures(),
            "precisions": ("fp32", "bf16") if has_bf16 else ("fp32",),
            "paths": ("library", "torch", "cpp")[: 3 if _has_cpp() else 2],
            "torch": torch.__version__,
            "matmul": torch.get_float32_matmul_precision(),
        }

    def peak_flops(self, precision: str, width: int) -> float:
        """FLOP/s of the best of twenty products of two (width, width) matrices."""
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        left, right = torch.randn(2, width, width).to(dtype)
        best = float("inf")
        for _ in range(20):
            started = time.perf_counter()
            left @ right
            best = min(best, time.perf_counter() - started)
        return 2 * width**3 / best


def _has_cpp() -> bool:
    """Whether the kernels compute in C++ here: all of them or none.

    Raises:
        RuntimeError: some compile and some do not, so that no row would be what it says.
    """
    kernels = [source.stem for source in native.SOURCES.glob("*.cpp")]
    works = {kernel for kernel in kernels if native.available(kernel)}
    if broken := sorted(set(kernels) - works):
        if works:
            raise RuntimeError(f"these kernels do not compile: {', '.join(broken)}")
        return False
    return True


class Training:
    """One model in training on random tokens: forward, loss, backward, AdamW."""

    def __init__(self, row: Row, shape: Shape, threads: int) -> None:
        self._memory_at_start = psutil.Process().memory_info().rss
        os.environ["BABYSWEEP_CPP"] = str(int(row.path == "cpp"))
        if row.precision == "plain":
            torch.set_num_threads(threads)
        else:
            set_up_device(threads)
        self.row, self.shape = row, shape
        config = models.build_config(
            row.arch, shape.size, vocab_size=shape.vocab, context=shape.context
        )
        self._layers = config.num_hidden_layers
        if shape.layers is not None:
            config.num_hidden_layers = max(1, shape.layers)
        torch.manual_seed(0)
        self.model = models.build_model(config).train()
        self._flops_per_token = models.flops_per_token(config, shape.context)
        if row.path in ("library", "yardstick"):
            self.model = library_models.build(row.arch, self.model)
        if shape.layers == 0:
            library_models.remove_layers(self.model)
        precision = row.precision
        if precision == "trial":
            precision = default_precision(0, config.hidden_size)
        self._objective = NextTokenObjective(self.model)
        self._autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
        self._loss = torch.compile(self._mean_loss) if row.compiled else self._mean_loss
        # A rate that leaves the weights where they are: memorising the one batch would in the end
        # fill the gradients with denormal numbers, which take other times.
        self._optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6, fused=True)

    def layers(self) -> int:
        """Number of layers of the preset."""
        return self._layers

    def training_flops(self) -> float:
        """FLOPs of one step: forward, and twice that backward."""
        return 3 * self._flops_per_token * self.shape.tokens

    def save_gradients(self, file: Path) -> None:
        """Loss and gradients of the checked batch at the initial weights, for `disagreement`."""
        loss = self._backward(*self._checked_batch())
        gradients = {name: p.grad.contiguous() for name, p in self.model.named_parameters()}
        save_file({"loss": loss, **gradients}, file)

    def disagreement(self, file: Path) -> tuple[float, float]:
        """Relative errors of the loss, and of the gradient of the worst parameter tensor.

        A gradient's error is the norm of the difference over the norm of the reference, where
        norms below a thousandth of the whole gradient's count as that much.
        """
        loss = self._backward(*self._checked_batch())
        with safe_open(file, "pt") as reference:
            names = {*reference.keys()} - {"loss"}
            parameters = dict(self.model.named_parameters())
            if names != parameters.keys():
                raise ValueError(f"not both have {sorted(names ^ parameters.keys())}")
            norms = {name: reference.get_tensor(name).norm() for name in names}
            floor = 1e-3 * sum(norm**2 for norm in norms.values()) ** 0.5
            errors = [
                (parameters[name].grad - reference.get_tensor(name)).norm() / max(norm, floor)
                for name, norm in norms.items()
            ]
            loss_error = abs(loss / reference.get_tensor("loss") - 1)
        self._optimizer.zero_grad()
        worst = torch.stack(errors).max()  # NaN if one of them is
        return loss_error.item(), worst.item()

    def steps(self, count: int, batch: int | None = None, context: int | None = None) -> float:
        """Mean seconds of `count` training steps; batch and context are the shape's by default."""
        inputs, targets = self._random_batch(
            batch or self.shape.batch, context or self.shape.context
        )
        started = time.perf_counter()
        for _ in range(count):
            self._backward(inputs, targets)
            self._optimizer.step()
            self._optimizer.zero_grad()
        return (time.perf_counter() - started) / count

    def tokens_per_second(self, seconds: float) -> float:
        """Of as many steps as begin within `seconds`."""
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            self.steps(1)
            count += 1
        return count * self.shape.tokens / (time.perf_counter() - started)

    def memory(self) -> tuple[float, float]:
        """Peak resident memory in GB, and how much of it came since the process started."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return peak / 1e9, (peak - self._memory_at_start) / 1e9

    def _checked_batch(self) -> tuple[Tensor, Tensor]:
        shape = self.shape
        return self._random_batch(
            min(CHECKED_SEQUENCES, shape.batch), min(CHECKED_LENGTH, shape.context)
        )

    def _random_batch(self, batch: int, context: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets, the same in every process."""
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, self.shape.vocab, (batch, context + 1), generator=generator)
        return ids[:, :-1], ids[:, 1:]

    def _backward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss, with the gradients left in the parameters."""
        with self._autocast:
            loss = self._loss(inputs, targets)
        loss.backward()
        return loss.detach()

    def _mean_loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        if self.row.path == "library":
            logits = library_models.logits(self.model, inputs)
            return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
        if self.row.path == "yardstick":
            hidden = library_models.hidden_states(self.model, inputs).flatten(0, 1)
            weight = self.model.lm_head.weight
            return linear_cross_entropy(hidden, weight, None, targets.flatten()) / targets.numel()
        return self._objective(inputs, targets) / targets.numel()


class Distillation(Training):
    """The same with a teacher of the same architecture and size."""

    ALPHA, TEMPERATURE = 0.5, 2.0

    def __init__(self, row: Row, shape: Shape, threads: int) -> None:
        super().__init__(row, shape, threads)
        torch.manual_seed(1)
        self._teacher: Any = models.build_model(self.model.config)
        self._objective = DistillationObjective(
            self.model, [self._teacher], self.ALPHA, self.TEMPERATURE, False
        )

    def error(self) -> float:
        """Relative error of the checked batch's loss against the definition in float64."""
        inputs, targets = self._checked_batch()
        with torch.no_grad():
            with self._autocast:
                loss = self._mean_loss(inputs, targets)
            student, teacher = (
                FactoredLogits(
                    model.base_model(input_ids=inputs, use_cache=False).last_hidden_state.flatten(
                        0, 1
                    ),
                    model.get_output_embeddings().weight,
                )
                for model in (self.model.eval(), self._teacher)
            )
            self.model.train()
            options = {"alpha": self.ALPHA, "temperature": self.TEMPERATURE}
            exact = linear_distillation_reference(student, [teacher], targets.flatten(), **options)
        return abs(loss.item() / (exact.item() / targets.numel()) - 1)
