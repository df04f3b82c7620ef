"""A study that lives on an MLflow server."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis import report
from tests.made_study import MadeStudy
from tests.processes import serve_mlflow


@pytest.mark.slow
def test_a_report_from_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With MLFLOW_TRACKING_URI the figures, the scores' files, too, come from the server, and the
    links lead there; nothing is read from the storage, which holds the report."""
    with serve_mlflow(tmp_path / "server") as server:
        made = MadeStudy(tmp_path / "elsewhere", uri=server.rstrip("/"))
        made.sweep(["mamba", "hgrn2"], (3e-3, 1e-2), (0,))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", made.uri)
        assert report.main(["--study", "study", "--storage", str(tmp_path / "here")]) == 0
    page = (tmp_path / "here" / "study" / "report" / "report.html").read_text()
    assert f"{made.uri}/#/experiments/" in page
    assert "macro, 95 % interval" in page
    assert not (tmp_path / "here" / "mlflow.db").exists()
