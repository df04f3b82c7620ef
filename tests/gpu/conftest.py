"""`-m gpu` runs Triton's kernels on the GPU, however pytest was called."""

from __future__ import annotations

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    if config.option.markexpr == "gpu":
        os.environ["TRITON_INTERPRET"] = "0"  # the other tests' conftest has set it
