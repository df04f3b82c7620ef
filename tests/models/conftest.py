"""Fixtures of the tests of `models`."""

from __future__ import annotations

import pytest

from models.kernels import native
from tests.models.triton_interpreter import take_triton


@pytest.fixture(params=["torch", "cpp", pytest.param("triton", marks=pytest.mark.slow)])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The way a kernel computes; the test runs once for each that this machine has, in Triton's
    interpreter only among the slow tests."""
    if request.param == "cpp" and native.find_compiler() is None:
        pytest.skip("no C++ compiler")
    monkeypatch.setenv("BABYSWEEP_CPP", str(int(request.param == "cpp")))
    if request.param == "triton":
        take_triton(monkeypatch)
    return request.param


@pytest.fixture
def on_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels run in Triton's interpreter; some seconds of this belong to the default tests."""
    take_triton(monkeypatch)
