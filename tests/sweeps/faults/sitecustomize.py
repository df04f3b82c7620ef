"""Faults for tests: Python imports this module in every process that has its folder on PYTHONPATH.

`BABYSWEEP_TEST_FAULT` is "<learning rate>:<kind>": the third step of that trial raises what a GPU
would. `BABYSWEEP_TEST_GPUS` is a number of GPUs that the sweep sees though they are not there.
`BABYSWEEP_TEST_SEEN` is a file to which each trial adds a line, "<GPUs promised>, <GPUs visible>,
<process>", before it gets the CPU.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys

MESSAGES = {
    "memory": "CUDA out of memory. Tried to allocate 2.00 GiB.",
    "device": "CUDA error: uncorrectable ECC error encountered\nCompile with TORCH_USE_CUDA_DSA",
}


def spoil_trainer(module):
    """Make steps of one trial fail."""
    import torch

    lr, kind = os.environ["BABYSWEEP_TEST_FAULT"].split(":")
    error = {"memory": torch.OutOfMemoryError, "device": torch.AcceleratorError}[kind]
    step = module.Trainer.step

    def faulty_step(self):
        if self.spec.lr == float(lr) and self.progress.step == 2:
            raise error(MESSAGES[kind])
        return step(self)

    module.Trainer.step = faulty_step


def use_cpu(module):
    """Let `pick_device` answer CPU, and write down what Ray shows of GPUs."""
    import torch

    def pick_device(gpus):
        with open(os.environ["BABYSWEEP_TEST_SEEN"], "a") as file:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            file.write(f"{gpus:g}, {visible}, {os.getpid()}\n")
        return torch.device("cpu")

    module.pick_device = pick_device


def count_gpus(module):
    """Let the sweep see GPUs."""
    module.local_gpus = lambda: int(os.environ["BABYSWEEP_TEST_GPUS"])


CHANGES = {
    "trainables.trainer": ("BABYSWEEP_TEST_FAULT", spoil_trainer),
    "trainables.device": ("BABYSWEEP_TEST_SEEN", use_cpu),
    "sweeps.engine.tuning": ("BABYSWEEP_TEST_GPUS", count_gpus),
}


class Changer(importlib.abc.MetaPathFinder):
    """Finds the modules of `CHANGES` like everybody else, and changes them once they are run."""

    def find_spec(self, name, path, target=None):
        variable, change = CHANGES.get(name, ("", None))
        if not change or variable not in os.environ:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            change(module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Changer())
