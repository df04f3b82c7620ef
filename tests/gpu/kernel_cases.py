"""All cases in which kernels are checked."""

from __future__ import annotations

from tests.gpu.cases import LENGTHS, MIDDLE, Case, Inputs
from tests.gpu.layer_cases import LAYER_CASES
from tests.gpu.recurrence_cases import RECURRENCE_CASES
from tests.gpu.whole_layer_cases import WHOLE_LAYER_CASES

__all__ = ["CASES", "LENGTHS", "MIDDLE", "Case", "Inputs"]

CASES: list[Case] = [*LAYER_CASES, *RECURRENCE_CASES, *WHOLE_LAYER_CASES]
