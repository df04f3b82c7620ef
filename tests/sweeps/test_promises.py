"""What users build on stays as it is: the flags of every command, and the names in MLflow.

Removing or renaming one is a decision, not an accident.
"""

from __future__ import annotations

import re
import resource
import subprocess
import sys

import pytest

from tests.processes import ROOT, environment
from tests.sweeps.conftest import SweepCommand

TRAINING = """
    address arch batch-size benchmarks checkpoint-minutes keep config context corpus cpus-per-trial
    depth dropout dry-run epochs ewok-password final-tasks gpus-per-trial grad-clip help
    layout max-concurrent micro-batch no-dry-run optimizer precision preset protocol runner
    schedule seeds size storage study tasks vocab-size warmup weight-decay workers-per-trial
"""
"""Flags of all commands that train."""

FLAGS = {
    "sweeps/lr_sweep.py": TRAINING
    + """
        batch-sizes dropouts extend lr-range lrs no-extend num-samples optimizers order sampler
        scheduler schedules search warmups weight-decays milestones
    """,
    "sweeps/epoch_study.py": TRAINING + " decay designs horizons lr milestones",
    "sweeps/distill.py": TRAINING
    + """
        alphas control lrs no-control no-reverse-kl reverse-kl student-init teacher temperatures
        batch-sizes dropouts optimizers schedules warmups weight-decays milestones
    """,
    "sweeps/paper.py": TRAINING
    + """
        alphas designs horizons lrs no-status status sweep-seeds teacher-arch temperatures
        batch-sizes dropouts optimizers order schedules warmups weight-decays
    """,
    "sweeps/promote.py": """
        alias arch benchmarks config force help model name no-force run-id storage study
    """,
    "sweeps/evaluate.py": """
        address all-templates benchmarks config cpus depth device eval-workers ewok-password
        glue-epochs glue-lr gpus help layout long-texts model no-all-templates no-submission output
        precision protocol run-id selection storage submission tasks token-budget
    """,
    "sweeps/export.py": "config help storage milestones no-milestones push private no-private",
    "sweeps/submit.py": """
        address benchmarks config cpus device eval-workers ewok-password glue glue-epochs glue-lr
        gpus help name no-glue precision protocol selection storage token-budget track
        arch lrs milestones study
    """,
    "sweeps/doctor.py": "address config help storage",
    "analysis/report.py": "config help output select storage study ui",
    "analysis/compare.py": "config help part storage study",
}

NAMES = {
    "sweep": {
        "metrics": """
            best/bits_per_byte best/epoch best/lr
        """,
        "params": """
            alpha arch batch_size benchmarks_hash beta1 beta2 context corpus corpus_hash decay
            dropout epochs eps grad_clip init optimizer precision protocol reverse_kl
            revision schedule size teacher teacher_name temperature warmup warmup_steps weight_decay
        """,
        "tags": """
            babysweep.arch babysweep.command babysweep.kind babysweep.setting babysweep.size
        """,
    },
    "trial": {
        "metrics": """
            best/bits_per_byte best/epoch best/lr epoch/seconds epoch/tokens_per_second
            epoch/train_loss train/epoch train/grad_norm train/loss train/lr
            train/tokens_per_second val/bits_per_byte val/loss val/perplexity
        """,
        "params": """
            alpha arch arithmetic batch_size began_step benchmarks_hash beta1 beta2 context
            corpus corpus_hash decay dropout epochs eps flops_per_token grad_clip hardware init
            kernels lr optimizer params params_non_embedding precision protocol reverse_kl
            revision schedule seed size software step teacher teacher_name temperature
            tokenizer_hash total_steps train_tokens train_words vocab_size warmup
            warmup_steps weight_decay
        """,
        "tags": """
            babysweep.arch babysweep.kind babysweep.outcome babysweep.seed babysweep.size
            babysweep.spec_hash
        """,
    },
}


@pytest.mark.parametrize("command", FLAGS)
def test_help_is_quick_and_flags_are_frozen(command: str) -> None:
    """--help answers in under two seconds of a core: other tests run beside this one."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, command, "--help"],
        cwd=ROOT,
        env=environment() | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2.0
    flags = re.findall(r"(?:^|[ │,|])--([a-z][a-z-]*)", done.stdout, re.MULTILINE)
    assert set(flags) == set(FLAGS[command].split())


def test_names_in_mlflow_are_frozen(whole_sweep: SweepCommand) -> None:
    """Metrics, parameters and tags of a trial and of its sweep."""
    for kind, names in NAMES.items():
        for run in whole_sweep.runs(kind):
            data = run.data
            found = {"metrics": data.metrics, "params": data.params, "tags": data.tags}
            for part, values in found.items():
                # MLflow's own tags tell of the machine.
                ours = {name for name in values if not name.startswith("mlflow.")}
                assert ours == set(names[part].split()), f"{part} of a {kind}"
