"""Arithmetic of a device, as it is set up and recorded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from models.kernels import paths
from models.kernels.rms_norm import rms_norm
from trainables import provenance
from trainables.device import arithmetic, set_up_device, share_of_memory

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def same_settings_afterwards():
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark
    threads = torch.get_num_threads()
    yield
    torch.set_float32_matmul_precision(before[0])
    cudnn.allow_tf32, cudnn.benchmark = before[1:]
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def fractions(monkeypatch):
    """The fractions of a GPU of 80 GB that the process was kept to."""
    found = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, 80 * 10**9))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", found.append)
    return found


@pytest.mark.parametrize("gpus", [0.25, 1.0, 2.0])
def test_a_process_keeps_to_its_share_of_a_gpu(gpus, fractions):
    """Less what CUDA itself takes, so that as many as share a GPU fit it; on a CPU to none."""
    set_up_device(1, CPU, gpus=gpus)
    assert fractions == []
    set_up_device(1, GPU, gpus=gpus)
    assert fractions == [pytest.approx(min(gpus, 1) - 2**30 / 80e9, abs=1e-5)]
    assert share_of_memory(80 * 10**9, 1e-4) == 1  # and not less than nothing


def test_float32_is_float32_on_a_gpu():
    """No TF32, not even after a trial on the CPU, which takes the faster products there."""
    set_up_device(1, CPU)
    set_up_device(1, GPU)
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32
    assert arithmetic(GPU) == "TF32 off, in cuDNN off; cuDNN's algorithms its own choice"
    set_up_device(1, CPU)
    assert arithmetic(CPU).startswith("float32 products ")


def test_a_trial_on_the_cpu_never_computes_with_denormal_numbers():
    """A saturated network's gradients are full of them, at a tenth of the speed."""
    denormal = torch.full((1024,), 1e-40)
    assert (denormal * 0.5).all()  # as without a trial
    set_up_device(1, CPU)
    assert not (denormal * 0.5).any()
    with ThreadPoolExecutor(1) as started_later:
        assert not started_later.submit(lambda: (denormal * 0.5).any()).result()


def test_a_run_records_which_kernels_computed_it(monkeypatch):
    """The paths that were taken, and the variable that says what is wanted; before, nothing."""
    monkeypatch.setenv(paths.VARIABLE, "torch")
    paths.forget_taken()
    assert provenance.kernels() == ""
    rms_norm(torch.ones(2, 16), torch.ones(16), 1e-6)
    assert provenance.kernels() == "BABYSWEEP_KERNELS=torch: rms_norm torch"
    assert "kernels" not in provenance.provenance(CPU, 1)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May", "535.183.01"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Re", "580.65.06"),
        ("", "unknown"),
    ],
)
def test_the_version_of_the_driver(text, version, tmp_path, monkeypatch):
    file = tmp_path / "version"
    if text:
        file.write_text(text + "\n")
    monkeypatch.setattr(provenance, "_DRIVER", file)
    assert provenance.driver_version() == version
