"""The report of a study as Chromium shows it: one made up with all of its parts, and a real one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis import report
from tests.made_study import MadeStudy, base_spec
from tests.processes import ROOT, environment


def assert_sound(path: Path, open_page: Callable[..., Any], pictures: int) -> None:
    """On a phone and on a desk: no error, no request but the file's, every picture has a size,
    nothing sticks out, and every table sorts."""
    for width in (390, 1280):
        opened = open_page(path, width=width)
        page = opened.page
        for summary in page.locator("summary").all():
            summary.click()
        page.screenshot(path=path.with_name(f"report-{width}.png"), full_page=True)
        boxes = [picture.bounding_box() for picture in page.locator("svg, img").all()]
        assert len(boxes) == pictures
        assert all(box["width"] > 100 and box["height"] > 60 for box in boxes)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        for button in page.locator("th button").all():
            button.click()
        sortable = page.locator("table:has(th button)").count()  # those of one row are not
        assert page.locator("th[aria-sort=ascending]").count() == sortable > 5
        assert opened.errors == []
        assert [url for url in opened.requests if not url.startswith("data:")] == [path.as_uri()]


@pytest.mark.slow
def test_a_study_with_all_parts(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    """A sweep with a diverged rate, branches and students."""
    made = MadeStudy(tmp_path)
    made.sweep(["lstm", "mamba", "hgrn2"], (3e-3, 1e-2, 3e-2), (0, 1))
    made.add([base_spec("mamba", lr=1e-1)], outcome="diverged")
    plan = {"schedule": "wsd", "warmup_steps": 5}
    branches = [base_spec(seed=s, epochs=e, **plan) for e in (1, 2, 3) for s in (0, 1)]
    made.add(branches, kind="epoch study")
    teacher = {"teacher": "abcd", "teacher_name": "hgrn2 version 1", "alpha": 0.5}
    made.add([base_spec(seed=s, **teacher) for s in (0, 1)], kind="distillation", bonus=0.02)
    assert report.main(["--storage", str(tmp_path)]) == 0
    assert_sound(tmp_path / "study" / "report" / "report.html", open_page, pictures=6)


@pytest.mark.slow
def test_a_finished_mini_study(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    """Two architectures that were really trained, one epoch each on the built-in corpus."""
    words = ["--arch", "lstm", "hgrn2", "--lrs", "1e-2", "3e-2", "1e-1", "--no-extend"]
    words += ["--epochs", "1", "--storage", str(tmp_path), "--preset", "mini"]
    subprocess.run(
        [sys.executable, "sweeps/lr_sweep.py", *words],
        cwd=ROOT,
        env=environment(),
        check=True,
        capture_output=True,
        timeout=500,
    )
    assert report.main(["--storage", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*/report/report.html")
    assert_sound(path, open_page, pictures=4)
    assert "python sweeps/lr_sweep.py --arch lstm hgrn2" in path.read_text()
