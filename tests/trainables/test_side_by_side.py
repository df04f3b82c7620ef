"""Steps are measured by processes that take them at the same time."""

from __future__ import annotations

import pytest

from trainables.side_by_side import SideBySide
from trainables.step_time import StepSetting

pytestmark = pytest.mark.slow


def test_two_processes_take_steps_side_by_side(tiny_spec, tiny_corpus, tmp_path, monkeypatch):
    """One setting after the other; what fails says why, and so does a death, and the next setting
    finds new processes. A package of the person's own is not taken for one of these."""
    (tmp_path / "models.py").write_text("raise SystemExit('the wrong models')")
    monkeypatch.chdir(tmp_path)
    processes = SideBySide(2)
    setting = StepSetting(tiny_spec, tiny_corpus.directory)
    try:
        assert processes.seconds(setting) > 0
        first = list(processes._processes)
        other = StepSetting(tiny_spec.replace(batch_size=8), tiny_corpus.directory)
        assert processes.seconds(other) > 0
        assert processes._processes == first
        first[0].kill()
        with pytest.raises(RuntimeError, match="ended: killed without a word"):
            processes.seconds(setting)
        too_large = StepSetting(tiny_spec.replace(batch_size=10**6), tiny_corpus.directory)
        with pytest.raises(RuntimeError, match="ValueError: corpus .* fewer than one batch"):
            processes.seconds(too_large)
    finally:
        last = list(processes._processes)
        processes.close()
    assert all(process.poll() is not None for process in [*first, *last])
