"""C++ versions of the kernels, compiled on first use with the system's compiler.

The sources in `cpp/` are plain C functions without torch's headers, so that one compiles in about
a second. The library is cached by everything that it depends on (sources, flags, compiler, CPU)
and put in its place by an atomic rename: workers that start together at worst compile it each.
Without a compiler, or with `BABYSWEEP_CPP=0` or `BABYSWEEP_KERNELS=torch`, the kernels compute in
PyTorch.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.kernels import paths

SOURCES = Path(__file__).with_name("cpp")
# Not -ffast-math or -ffinite-math-only: they would turn the NaN of a diverged run into a number.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-shared", "-fPIC", "-fopenmp")
LANES = 16  # floats in a vector of `vector.h`
ELEMENT_TYPES = (torch.float32, torch.bfloat16)  # that `vector.h` can load and store

_log = logging.getLogger(__name__)
_shapes_logged: set[str] = set()


@torch.compiler.assume_constant_result  # Dynamo must not trace into the compilation
def available(kernel: str) -> bool:
    """Whether the C++ version of `kernel` is wanted and works here; the first call compiles it."""
    is_wanted = os.environ.get("BABYSWEEP_CPP", "1") != "0" and paths.override() != "torch"
    return is_wanted and _library(kernel) is not None


def takes(
    kernel: str,
    *tensors: Tensor,
    fits: bool = True,
    types: tuple[torch.dtype, ...] = (torch.float32,),
) -> bool:
    """Whether the C++ version of `kernel` is available, for tensors on this device and of `types`.

    `fits` is what the kernel asks of the shapes; a shape that does not fit is logged once. Who asks
    has PyTorch compute otherwise, which is noted.
    """
    takeable = all(x.device.type == "cpu" and x.dtype in types and x.numel() for x in tensors)
    is_there = takeable and available(kernel)
    if is_there and not fits:
        _log_shape(kernel, *tensors)
    if not (is_there and fits):
        paths.note(kernel, "torch")
    return is_there and fits


class Rows(NamedTuple):
    """A tensor (rows, dim) for `call` whose rows may lie apart: the C function is told how far."""

    tensor: Tensor


def rows(x: Tensor) -> Tensor:
    """x (..., dim) as (rows, dim), each row without gaps; copies only what no stride describes."""
    flat = x.flatten(0, -2)
    return flat if flat.stride(-1) == 1 else flat.contiguous()


Argument = Tensor | Rows | int | float | None


def call(kernel: str, function: str, *arguments: Argument) -> None:
    """Call a C function of a kernel that is `available`.

    Contiguous tensors and `Rows` become pointers, None a null pointer, an int becomes int64_t, a
    float becomes float; behind them comes torch's number of threads as int64_t.
    """
    paths.note(kernel, "cpp")
    library = _library(kernel)
    assert library is not None
    converted = [_convert(argument) for argument in (*arguments, torch.get_num_threads())]
    getattr(library, function)(*converted)


def cache_folder() -> Path:
    """The folder of compiled kernels: `babysweep/kernels` in the user's cache folder."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "babysweep" / "kernels"


def _convert(argument: Argument) -> ctypes._SimpleCData[Any]:
    if argument is None:
        return ctypes.c_void_p(None)
    if isinstance(argument, Rows):
        x = argument.tensor
        return _pointer(x, x.dim() == 2 and x.stride(1) == 1)
    if isinstance(argument, Tensor):
        return _pointer(argument, argument.is_contiguous())
    return ctypes.c_int64(argument) if isinstance(argument, int) else ctypes.c_float(argument)


def _pointer(x: Tensor, packed: bool) -> ctypes.c_void_p:
    if x.device.type != "cpu" or not packed:
        raise ValueError(f"a tensor {tuple(x.shape)} with gaps or not on the CPU: {x.device}")
    return ctypes.c_void_p(x.data_ptr())


@functools.cache
def _library(kernel: str) -> ctypes.CDLL | None:
    """The compiled `cpp/<kernel>.cpp`, or None with one line in the log that says why."""
    compiler = find_compiler()
    if compiler is None:
        tried = ", ".join(_compilers())
        _log_once(f"no C++ compiler ({tried}); the kernels compute in PyTorch (install g++ >= 12)")
        return None
    try:
        return _load(kernel, compiler)
    except subprocess.CalledProcessError as error:
        reason = next((line for line in error.stderr.splitlines() if "error" in line), error)
        _log_once(f"{compiler} fails on {kernel}.cpp, which computes in PyTorch: {reason}")
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        _log_once(f"no C++ for {kernel}, which computes in PyTorch: {error}")
    return None


def find_compiler() -> str | None:
    """The C++ compiler: that of the variable CXX, else the first that there is."""
    return next(filter(None, map(shutil.which, _compilers())), None)


def _load(kernel: str, compiler: str) -> ctypes.CDLL:
    path = _compiled(kernel, compiler)
    try:
        return ctypes.CDLL(str(path))
    except OSError:  # a file that a full disk or a crash left broken
        path.unlink(missing_ok=True)
        return ctypes.CDLL(str(_compiled(kernel, compiler)))


def _compilers() -> tuple[str, ...]:
    chosen = os.environ.get("CXX")
    return (chosen,) if chosen else ("g++", "clang++", "c++")


def _compiled(kernel: str, compiler: str) -> Path:
    """The library of a kernel, from the cache or compiled now.

    Raises CalledProcessError if the compiler fails, OSError if the cache cannot be written.
    """
    source = SOURCES / f"{kernel}.cpp"
    ingredients = [path.read_text() for path in (source, *sorted(SOURCES.glob("*.h")))]
    ingredients += [*FLAGS, _version(compiler), _cpu()]
    key = hashlib.sha256("\0".join(ingredients).encode()).hexdigest()[:16]
    folder = cache_folder()
    target = folder / f"{kernel}-{key}.so"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            library = Path(work) / target.name
            command = [compiler, *FLAGS, str(source), "-o", str(library)]
            subprocess.run(command, check=True, capture_output=True, text=True)
            library.replace(target)
    return target


@functools.cache
def _version(compiler: str) -> str:
    return subprocess.run(
        [compiler, "--version"], check=True, capture_output=True, text=True
    ).stdout


@functools.cache
def _cpu() -> str:
    """The CPU's features: a cache folder may be shared by machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:  # not Linux
        return platform.processor()
    # "flags" on x86, "Features" on ARM
    return next((line for line in lines if line.startswith(("flags", "Features"))), "unknown")


@torch.compiler.disable
def _log_shape(kernel: str, *tensors: Tensor) -> None:
    if kernel not in _shapes_logged:
        _shapes_logged.add(kernel)
        shapes = ", ".join(str(tuple(x.shape)) for x in tensors)
        _log.info("C++ for %s does not take the shapes %s: PyTorch computes", kernel, shapes)


@functools.cache
def _log_once(message: str) -> None:
    _log.warning(message)
