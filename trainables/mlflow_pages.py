"""What MLflow's pages show of a study at first sight: columns and charts, and descriptions.

The pages remember columns and charts in the browser, so that everyone begins with none. A view
that a person saves there ("Save view") is an experiment tag; this module writes the same tag, which
MLflow reads since 3.16 (`savedViewEnvelope.ts` among its pages' sources).
A description is the tag `mlflow.note.content`, in Markdown.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from typing import Any

from analysis.schema.axes import AXES, in_words
from trainables.progress import EpochReport
from trainables.spec import TrialSpec

SWEEPS, TRIALS = "babysweep-sweeps", "babysweep-trials"
"""The views: sweeps, to be unfolded; and all trials, the best first, with charts."""
_NAMES = {SWEEPS: "BabySweep: sweeps", TRIALS: "BabySweep: trials, best first"}

_WIDTHS = {
    "attributes.`Run Name`": 280,
    "metrics.`best/bits_per_byte`": 150,
    "metrics.`best/macro`": 110,
    **{f"metrics.`best/{axis.field}`": 90 for axis in AXES.values() if axis.scale},
    "metrics.`best/epoch`": 110,
    "tags.`babysweep.outcome`": 160,
    "attributes.`Description`": 500,
}
COLUMNS = tuple(_WIDTHS)[1:]
"""Beside the name of a run, in this order."""
_LINES = ("val/bits_per_byte", "zero_shot/macro", "train/loss", "epoch/tokens_per_second")
"""Metrics that have a chart."""
_ACROSS = 1
"""Charts in a row: beside the runs a page of 1280 pixels has room for the title of one. It is the
metric's name, whatever a view calls it."""
_CHARTS = "babysweep-charts"
_LONGEST = 8000  # characters that a tag of a run holds


def page(experiment_id: str, view: str = SWEEPS, *, charts: bool = False) -> str:
    """A view of a study, to be added to the address of MLflow's server."""
    mode = "&compareRunsMode=CHART" if charts else ""
    address = f"#/experiments/{experiment_id}/runs?workflowType=machine_learning"
    return f"{address}&viewStateShareKey={view}{mode}"


def study_tags(created: int) -> dict[str, str]:
    """The experiment tags that make the views.

    Args:
        created: when, in milliseconds since 1970; orders the page's list of views.
    """
    # Only rows in the order of their start are nested; charts are of the rows that are unfolded.
    in_time = {"orderByKey": "attributes.start_time", "orderByAsc": False}
    best_first = {
        "searchFilter": "tags.`babysweep.kind` = 'trial'",
        "orderByKey": "metrics.`best/bits_per_byte`",
        "orderByAsc": True,
    }
    return {
        "mlflow.experimentKind": "custom_model_development",  # its pages for training, not tracing
        f"mlflow.sharedViewState.{SWEEPS}": _envelope(SWEEPS, in_time, created + 1),
        f"mlflow.sharedViewState.{TRIALS}": _envelope(TRIALS, best_first, created),
    }


def _envelope(view: str, rows: dict[str, Any], created: int) -> str:
    """A view with these rows, as MLflow's pages write one."""
    state = {
        **rows,
        "selectedColumns": list(COLUMNS),
        "columnOrder": list(_WIDTHS),
        "columnWidths": _WIDTHS,
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": [_line(metric) for metric in _LINES],
        "compareRunSections": [
            {
                **{"uuid": _CHARTS, "name": "BabySweep", "display": True, "isReordered": True},
                "columns": _ACROSS,
            }
        ],
        "isAccordionReordered": True,
        "hideEmptyCharts": True,
    }
    # A tag holds 5,000 characters.
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    envelope = {"name": _NAMES[view], "createdAt": created, "state": f"deflate;{packed}"}
    return json.dumps(envelope)


def _line(metric: str) -> dict[str, Any]:
    """A chart of a metric by its own steps."""
    return {
        "uuid": f"{_CHARTS}-{metric}",
        "type": "LINE",
        "metricSectionId": _CHARTS,
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "displayName": metric,
        "runsCountToCompare": 20,
        "xAxisKey": "step",
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "lineSmoothness": 0,
        "isGenerated": False,
        "deleted": False,
    }


def with_text(note: str, topic: str, text: str) -> str:
    """A description with a text in it, in place of the one on this topic that it had.

    Two comments mark where the first line of the text ends and where all of it: a page does not
    show them, and a table of runs shows what comes before them. What is around the text is kept.
    One that would make the description longer than MLflow keeps (it would cut it) is left out.
    """
    begin, end = f"<!-- babysweep: {topic} -->", f"<!-- babysweep: end of {topic} -->"
    first, _, others = text.partition("\n")
    marked = f"{first} {begin}\n{others} {end}"
    # A lone first mark, whose second one a person deleted, must not take in what follows.
    left, right = re.escape(begin), re.escape(end)
    ours = re.compile(rf"[^\n]*{left}(?:(?!{left})[\s\S])*?{right}")
    if ours.search(note):
        new = ours.sub(lambda _: marked, note, count=1)
    else:
        new = f"{note.rstrip()}\n\n{marked}" if note.strip() else marked
    return new if len(new) <= _LONGEST else note


def trial_note(spec: TrialSpec, outcome: str, best: EpochReport | None) -> str:
    """A trial's description: how it ended, and its figures after its best epoch."""
    if best is None:
        return f"{outcome} before the end of an epoch, at learning rate {in_words(spec.point)}"
    macro = "" if best.macro is None else f", macro {best.macro:.1f} %"
    return (
        f"{outcome}; best after epoch {best.epoch} of {spec.epochs}: "
        f"{best.bits_per_byte:.4f} bits/byte{macro}"
    )
