"""Fixtures of the tests of `models`."""

from __future__ import annotations

import pytest

from models.kernels import native


@pytest.fixture(params=["torch", "cpp"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The way a kernel computes; the test runs once for each that this machine has."""
    if request.param == "cpp" and native.find_compiler() is None:
        pytest.skip("no C++ compiler")
    monkeypatch.setenv("BABYSWEEP_CPP", str(int(request.param == "cpp")))
    return request.param
