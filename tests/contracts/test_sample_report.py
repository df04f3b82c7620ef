"""The sample of a report that the README shows."""

from __future__ import annotations

import re

from tests.processes import ROOT

SAMPLE = ROOT / "docs" / "sample_report.html"


def test_the_readme_shows_the_sample() -> None:
    """Picture and file, and both are there."""
    readme = (ROOT / "README.md").read_text()
    for name in ("sample_report.html", "sample_report.png"):
        assert f"](docs/{name})" in readme
        assert (ROOT / "docs" / name).stat().st_size > 50_000


def test_the_sample_is_whole_and_of_no_machine() -> None:
    """It opens offline, has each question of a report, and names no folder outside the project."""
    text = SAMPLE.read_text()
    assert set(re.findall(r'(?:src|href)="(https?://[^/"]+)', text)) <= {"http://127.0.0.1:5000"}
    for title in ("Which architecture", "Which learning rate", "How many epochs", "What it cost"):
        assert f"{title}</h2>" in text
    assert not re.search(r"(?<![\w./])/(home|root|tmp|work|Users)/", text)
