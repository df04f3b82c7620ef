"""Descriptions for MLflow's pages, rendered by a Markdown library."""

from __future__ import annotations

import pandas as pd
from markdown_it import MarkdownIt

from sweeps.findings.mlflow_notes import (
    MOST_ROWS,
    markdown_table,
    picture_of,
    study_note,
    sweep_note,
    trial_link,
)

CELLS = pd.DataFrame(
    {
        "LR": ["1e-3", "3e-3"],
        "bits/byte": ["1.2000 ± 0.0100", "1.1000"],
        "": ["1 diverged", "best"],
    }
)


def html(text):
    return MarkdownIt("commonmark").enable("table").render(text)


def test_a_sweeps_description_begins_with_the_answer():
    """The first finding, the best trial as a link, the table with all of its cells, the picture,
    and the other findings as a list."""
    note = sweep_note(
        ["", "lstm: 3e-3 is ahead.", "lstm: macro 60.0"],
        CELLS,
        best=trial_link("7", "abc", "lstm lr=3e-3 seed=0"),
        picture=picture_of("def", "lr_curve.png"),
    )
    page = html(note)
    assert page.startswith("<p>lstm: 3e-3 is ahead.</p>\n<p>Best trial: <a href=")
    assert page.count("<li>") == 1
    assert (
        '<a href="#/experiments/7/runs/abc?workflowType=machine_learning">lstm lr=3e-3 seed=0</a>'
        in page
    )
    assert page.count("<tr>") == 3
    for cell in CELLS.to_numpy().ravel():
        assert f"<td>{cell}</td>" in page
    assert 'src="get-artifact?path=lr_curve.png&amp;run_uuid=def"' in page
    assert "<p>± standard deviation over seeds</p>" in page


def test_a_lone_finding_needs_nothing_else():
    """Without list, link and picture there is no empty place for them."""
    page = html(sweep_note(["lstm: every rate diverged."], CELLS))
    assert "<ul>" not in page
    assert "Best trial" not in page
    assert "<img" not in page


def test_a_long_table_says_what_is_left_out():
    """A description is limited; the rest is among the artifacts."""
    cells = pd.DataFrame({"LR": [str(number) for number in range(MOST_ROWS + 2)]})
    page = html(markdown_table(cells))
    assert page.count("<td>") == MOST_ROWS
    assert "and 2 more rows" in page


def test_markdowns_signs_are_shown_as_they_are():
    """A path or a name with Markdown's signs is neither a table's border nor HTML."""
    name = "a|b *c* <d> [e](f) `g`"
    page = html(sweep_note([name], pd.DataFrame({"": [name]})))
    shown = "a|b *c* &lt;d&gt; [e](f) `g`"
    assert f"<p>{shown}</p>" in page
    assert f"<td>{shown}</td>" in page


def test_a_studys_description_counts_and_explains():
    """Architectures, corpus and outcomes of the study's trials, what the columns mean, and which
    benchmarks the macro is the mean of."""
    trials = pd.DataFrame(
        {
            "arch": ["lstm", "hgrn2", "lstm"],
            "corpus": "mini",
            "size": "mini",
            "protocol": "2024",
            "outcome": ["finished", None, "diverged"],
        }
    )
    page = html(study_note(trials, ["bear", "blimp", "ewok"], "7"))
    assert "hgrn2, lstm trained on mini, size mini" in page
    assert "3 trials (1 diverged, 1 finished, 1 unfinished)" in page
    assert "one for each point" in page
    assert "Benchmarks: bear, blimp, ewok; macro is the mean of blimp, ewok." in page
    assert page.count('href="#/experiments/7/runs?') == 3
    for column in ("best/bits_per_byte", "val/bits_per_byte", "zero_shot/"):
        assert column in page
