"""Compiling C++ kernels on first use, and doing without."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from models.kernels import native
from models.kernels.depthwise_conv import (
    causal_depthwise_conv,
    causal_depthwise_conv_reference,
)

KERNEL = "depthwise_conv"
needs_compiler = pytest.mark.skipif(native.find_compiler() is None, reason="no C++ compiler")
CACHES = (native._library, native._version, native._cpu, native._log_once)


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A cache folder of the test's own, and a process that has not loaded any kernel."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("BABYSWEEP_CPP", raising=False)
    for cache in CACHES:
        cache.cache_clear()
    yield native.cache_folder()
    for cache in CACHES:
        cache.cache_clear()


def assert_convolves() -> None:
    x, weight, bias = torch.randn(1, 5, 16), torch.randn(16, 4), torch.randn(16)
    want = causal_depthwise_conv_reference(x, weight, bias).float()
    torch.testing.assert_close(causal_depthwise_conv(x, weight, bias), want)


def test_without_a_compiler_pytorch_computes(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No compiler: the same results, one line in the log, no file."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    with caplog.at_level(logging.WARNING):
        assert not native.available(KERNEL)
        assert not native.available(KERNEL)
        assert_convolves()
    assert [record.message for record in caplog.records] == [
        "no C++ compiler (no-such-compiler); the kernels compute in PyTorch (install g++ >= 12)"
    ]
    assert not empty_cache.exists()


def test_a_failing_compiler_leaves_a_reason_and_no_library(
    empty_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    """A compiler that dies half-way: its error in the log, nothing in the cache, same results."""
    broken = tmp_path / "broken-c++"
    broken.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exit 0\n'
        'for last; do :; done\necho half > "$last"\necho "error: no such flag" >&2\nexit 1\n'
    )
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    with caplog.at_level(logging.WARNING):
        assert_convolves()
    assert "no such flag" in caplog.text
    assert list(empty_cache.iterdir()) == []


@needs_compiler
def test_an_unwritable_cache_is_no_obstacle(
    empty_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    """Nowhere to put the library: PyTorch computes, and the log says why."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        assert_convolves()
    assert "Not a directory" in caplog.text


def test_the_switch_turns_the_kernels_off(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BABYSWEEP_CPP=0 compiles nothing."""
    monkeypatch.setenv("BABYSWEEP_CPP", "0")
    assert_convolves()
    assert not empty_cache.exists()


@needs_compiler
def test_a_library_is_compiled_once(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next process finds the library; another source or another CPU gets its own."""
    assert native.available(KERNEL)
    (first,) = empty_cache.iterdir()
    stamp = first.stat().st_mtime_ns
    native._library.cache_clear()
    assert native.available(KERNEL)
    assert [path.stat().st_mtime_ns for path in empty_cache.iterdir()] == [stamp]

    monkeypatch.setattr(native, "_cpu", lambda: "flags: another")
    native._library.cache_clear()
    assert native.available(KERNEL)
    assert len(list(empty_cache.iterdir())) == 2


def test_only_float32_on_the_cpu_is_taken(path: str) -> None:
    """Tensors of other types and on other devices never reach the C++ code."""
    taken = native.takes(KERNEL, torch.zeros(1))
    assert taken == (path == "cpp")
    assert not native.takes(KERNEL, torch.zeros(1, dtype=torch.float64))
    assert not native.takes(KERNEL, torch.zeros(1), torch.zeros(1, device="meta"))


@pytest.mark.slow
@needs_compiler
def test_workers_may_start_together(empty_cache: Path) -> None:
    """Four processes with an empty cache all get a working library, and leave one file."""
    # The file alone: importing the whole package would take far longer than compiling.
    program = (
        "import importlib.util as u\n"
        f"spec = u.spec_from_file_location('native', {native.__file__!r})\n"
        "native = u.module_from_spec(spec); spec.loader.exec_module(native)\n"
        f"assert native.available({KERNEL!r})\n"
    )
    command = [sys.executable, "-c", program]
    workers = [subprocess.Popen(command, env=dict(os.environ)) for _ in range(4)]
    assert [worker.wait() for worker in workers] == [0] * 4
    assert len(list(empty_cache.iterdir())) == 1


@needs_compiler
def test_a_shape_that_does_not_fit_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """PyTorch computes what C++ does not take, and the log says so, once, as no warning: it is
    only slower, and every run records which path it took."""
    monkeypatch.delenv("BABYSWEEP_CPP", raising=False)
    monkeypatch.setattr(native, "_shapes_logged", set())
    x, weight, bias = torch.randn(1, 5, 12), torch.randn(12, 4), torch.randn(12)
    with caplog.at_level(logging.INFO, native.__name__):
        for _ in range(2):
            causal_depthwise_conv(x, weight, bias)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert [record.message for record in caplog.records] == [
        "C++ for depthwise_conv does not take the shapes (1, 5, 12): PyTorch computes"
    ]


@needs_compiler
def test_a_broken_library_is_compiled_anew(empty_cache: Path) -> None:
    """A file that a crash left half-written is not found broken for ever."""
    assert native.available(KERNEL)
    (library,) = empty_cache.iterdir()
    native._library.cache_clear()
    library.unlink()
    library.write_bytes(b"half")
    assert native.available(KERNEL)
    assert_convolves()
