"""Checkpoints open in the transformers that the BabyLM pipelines pin, and in the present one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import models
from tests.agreement.conftest import Train
from tests.agreement.tools import ENVIRONMENT, OLDER, older_python
from tests.sweeps.exported_models import check_exports

SCRIPT = Path(__file__).with_name("older_transformers.py")
TEXTS = ["The cat sees the dogs.", "  two  spaces, an accent: é, and a line\nbreak", "x"]
LIBRARYS_OWN = ("transformer", "mamba")
"""Architectures whose weights the library opens without `import models`."""


def opened(python: Path | str, checkpoint: Path, *flags: str) -> dict[str, Any]:
    """What `older_transformers.py` prints in an interpreter."""
    command = [str(python), str(SCRIPT), str(checkpoint), json.dumps(TEXTS), *flags]
    done = subprocess.run(
        command,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def older() -> Path:
    """The interpreter that has it; skips where there is none."""
    if not older_python().is_file():
        pytest.skip(f"no transformers {OLDER} at {older_python()}: `make agreement` installs it")
    return older_python()


@pytest.mark.agreement
@pytest.mark.parametrize("arch", models.architectures())
def test_checkpoints_open_in_both(arch: str, trained: Train, older: Path) -> None:
    """Same tokens, no token types; the library's own models score the same there, and generate."""
    checkpoint = trained(arch).path
    flags = ("--model",) if arch in LIBRARYS_OWN else ()
    before, now = (opened(python, checkpoint, *flags) for python in (older, sys.executable))
    assert before["version"] == OLDER != now["version"]
    assert before["tokenizer"] == "PreTrainedTokenizerFast"
    assert before["encodings"] == now["encodings"]
    assert all(set(each) == {"input_ids", "attention_mask"} for each in now["encodings"])
    if flags:
        assert before["log_probs"] == pytest.approx(now["log_probs"], abs=1e-3)
        for texts in (before["generated"], now["generated"]):
            begun = [len(each["input_ids"]) for each in now["encodings"]]
            assert all(a < len(ids) <= a + 5 for a, ids in zip(begun, texts, strict=True))


@pytest.mark.agreement
@pytest.mark.parametrize("arch", models.architectures())
def test_exports_open_in_the_older_one(arch: str, tmp_path: Path, older: Path) -> None:
    """With code of their own where it is needed, and the same results."""
    check_exports(arch, tmp_path, older)
