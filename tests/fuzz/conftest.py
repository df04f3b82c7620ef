"""The ground, and an asker whose commands never start Ray."""

from __future__ import annotations

import pytest
import ray

from tests.fuzz.asking import Asker, TrainingBegins
from tests.fuzz.ground import Ground


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """The ground, made once."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "BABYSWEEP_STORAGE", "RAY_ADDRESS"):
            patch.delenv(name, raising=False)
        return Ground.prepare(tmp_path_factory.mktemp("fuzz"))


@pytest.fixture
def ground(prepared: Ground) -> Ground:
    """The ground as it was made."""
    prepared.restore()
    return prepared


@pytest.fixture
def asker(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Asker:
    """Asks commands of this machine only: no other cluster, store, storage, nor the network."""

    def begin(*args: object, **options: object) -> None:
        raise TrainingBegins

    monkeypatch.setattr(ray, "init", begin)
    for name in ("MLFLOW_TRACKING_URI", "BABYSWEEP_STORAGE", "RAY_ADDRESS", "RAY_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    return Asker(capsys, caplog)
