"""Every kernel against its reference in float64, as functions of the device.

What a check compares are the outputs (states included) and the gradients of all inputs, under
random weights of the outputs. Memory that a kernel asks for and does not fill is full of NaN.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from models.kernels.gpu.launch import Launch, recording
from tests.gpu.kernel_cases import CASES, Case, Inputs


@dataclass(frozen=True)
class Tolerance:
    """Greatest errors of a tensor.

    Attributes:
        largest: of any entry, relative to the largest entry of the tensor.
        norm: of the whole, relative to its norm.
    """

    largest: float
    norm: float

    def loosened(self, factor: float) -> Tolerance:
        return Tolerance(factor * self.largest, factor * self.norm)


# float32: sums in another order, and products in three passes of TF32. bf16: the inputs are exact,
# but tiles of products are rounded (2^-9 each), and so are the results.
TOLERANCES = {
    torch.float32: Tolerance(largest=2e-5, norm=2e-5),
    torch.bfloat16: Tolerance(largest=2e-2, norm=1e-2),
}
SMALL = 0.1
"""A tensor with no larger entry counts as if all of its entries were this: inputs are of order one.

So errors of rounding pass where the exact result is nothing. A case's results must not lie between:
of one whose entries are a tenth of this, an error of a tenth would pass as well.
"""

NAN_LENGTH = 48
"""Steps of the cases that are fed with NaN."""


def check(case: Case, device: str, dtype: torch.dtype) -> float:
    """The kernel is its reference; returns the worst error over its tolerance."""
    tolerance = TOLERANCES[dtype]
    if dtype == torch.float32:
        tolerance = tolerance.loosened(case.loosened)
    return compare(results(case, device, dtype), expectation(case, device, dtype), tolerance)


def check_repeats(case: Case, device: str, dtype: torch.dtype) -> None:
    """Run twice, the kernel gives the same bits."""
    first, second = (results(case, device, dtype) for _ in range(2))
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), f"{name} differs from run to run"


def check_nan(case: Case, device: str, dtype: torch.dtype) -> None:
    """A NaN in any input makes the output NaN somewhere: a diverged run cannot hide."""
    inputs = prepare(case, device, dtype)
    assert _first_output(case, inputs).isfinite().all(), "not finite without a NaN"
    for name, tensor in inputs.items():
        if tensor.is_floating_point():
            poisoned = tensor.detach().clone()
            poisoned.view(-1)[0] = torch.nan
            output = _first_output(case, {**inputs, name: poisoned})
            assert output.isnan().any(), f"a NaN in {name} is swallowed"


def nan_cases() -> list[Case]:
    """One of each kernel and each way to call it, without anything extreme."""
    seen: dict[tuple[str, ...], Case] = {}
    for case in CASES:
        if f"T={NAN_LENGTH} " in case.name:
            seen.setdefault((case.kernel, *sorted(case.inputs())), case)
    return list(seen.values())


def prepare(case: Case, device: str, dtype: torch.dtype) -> Inputs:
    """The case's inputs in the types of a run, those with a gradient as leaves."""
    prepared = {}
    for name, tensor in case.inputs().items():
        if not tensor.is_floating_point():
            prepared[name] = tensor.to(device)
            continue
        # On the grid of the type also where it stays float32: a product rounds no input.
        kept = name in case.parameters or name in case.constants
        rounded = tensor.to(dtype)
        on_device = (rounded.float() if kept else rounded).to(device)
        prepared[name] = on_device.requires_grad_(name not in case.constants)
    return prepared


def results(case: Case, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Outputs and gradients of the kernel."""
    with _memory_full_of_nan():
        return _outputs_and_gradients(case.run, prepare(case, device, dtype), dtype)


@functools.lru_cache(maxsize=4)
def expectation(case: Case, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Those of the reference, from the same inputs in float64."""
    inputs = {
        name: tensor.detach().double().requires_grad_(tensor.requires_grad)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in prepare(case, device, dtype).items()
    }
    return _outputs_and_gradients(case.reference, inputs, dtype)


def compare(got: dict[str, Tensor], want: dict[str, Tensor], tolerance: Tolerance) -> float:
    """The worst error over its tolerance; AssertionError if that is above 1, or not a number."""
    worst = 0.0
    assert got.keys() == want.keys()
    for name, expected in want.items():
        actual = got[name].double()
        assert actual.shape == expected.shape, f"{name} has the shape {tuple(actual.shape)}"
        scale, size = expected.abs().max(), expected.norm()
        if scale < SMALL:
            full = torch.full_like(expected, SMALL)
            scale, size = full.max(), full.norm()
        difference = actual - expected
        largest = (difference.abs().max() / scale / tolerance.largest).item()
        norm = (difference.norm() / size / tolerance.norm).item()
        assert largest <= 1, f"{name}: largest error {largest * tolerance.largest:.1e}"  # or NaN
        assert norm <= 1, f"{name}: error of the norm {norm * tolerance.norm:.1e}"
        worst = max(worst, largest, norm)
    return worst


def record(case: Case, dtype: torch.dtype) -> list[Launch]:
    """What the case would launch on a GPU, to compile it before."""
    with FakeTensorMode(), recording() as launches:
        _outputs_and_gradients(case.run, prepare(case, "cpu", dtype), dtype)
    return launches


def _first_output(case: Case, inputs: Inputs) -> Tensor:
    """Without gradients."""
    with torch.no_grad():
        output = case.run(**inputs)
    return output if isinstance(output, Tensor) else output[0]


def _outputs_and_gradients(run, inputs: Inputs, dtype: torch.dtype) -> dict[str, Tensor]:
    outputs = run(**inputs)
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    differentiable = [output for output in outputs if output.requires_grad]
    weights = [_weights(output, dtype) for output in differentiable]
    leaves = {name: tensor for name, tensor in inputs.items() if tensor.requires_grad}
    gradients = torch.autograd.grad(differentiable, list(leaves.values()), weights)
    named = {f"output {index}": output.detach() for index, output in enumerate(outputs)}
    named |= {f"gradient of {name}": g for name, g in zip(leaves, gradients, strict=True)}
    return named


def _weights(output: Tensor, dtype: torch.dtype) -> Tensor:
    """The gradient of the output: the same for kernel and reference, on the grid of the type."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(output.shape, generator=generator).to(dtype)
    return weights.to(output.device, output.dtype)


@contextlib.contextmanager
def _memory_full_of_nan() -> Iterator[None]:
    """Fill what `torch.empty` gives, which PyTorch does for the sake of determinism."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of operations that are not deterministic
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
