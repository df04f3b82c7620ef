"""What MLflow holds of a study, as data frames: one row per trial, or one per trial and epoch.

An experiment is a study; a run tagged `babysweep.kind` = "trial" is a trial, with the trial's spec
as parameters, `val/*` and `zero_shot/*` by epoch (step = epoch, from 1) and `best/*` at its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import augmented_raise_for_status, http_request

from analysis.errors import without_secret
from analysis.schema.fields import DEFAULTS, names_of
from analysis.store import all_runs

_SPEC = ("arch", "size", "lr", "seed", "epochs")
_COUNTS = (
    *names_of("int"),
    *("best_epoch", "total_steps", "began_step", "params", "params_non_embedding"),
    *("vocab_size", "train_tokens", "train_words", "flops_per_token"),
)
_NUMBERS = (*names_of("float"), "bits_per_byte", "macro")
_BEST = {"best_epoch": "best/epoch", "bits_per_byte": "best/bits_per_byte", "macro": "best/macro"}
_TAGS = {
    "spec_hash": "babysweep.spec_hash",
    "outcome": "babysweep.outcome",
    "parent": "mlflow.parentRunId",
    "commit": "mlflow.source.git.commit",
    "reason": "babysweep.reason",
}
_COLUMNS = ("run_id", "spec_hash", *_SPEC, "outcome", "status", *_BEST)
_BY_EPOCH = {
    **{"val/": "", "zero_shot/": "", "epoch/": ""},
    **{"selection/": "selection_", "held_out/": "held_out_"},
}
_FINAL = ("final/", "eval/")
_MILESTONE = "milestone/"
_HISTORIES = "/ajax-api/2.0/mlflow/metrics/get-history-bulk"
_RUNS_AT_ONCE, _MOST_POINTS = 100, 25_000
"""For which a server gives a metric in one answer."""
_NOT_FOUND = 404
_SECONDS = ("seconds", "tokens_per_second")


def trials(store: MlflowClient | str, study: str) -> pd.DataFrame:
    """One row per trial of a study, in the order of architecture, learning rate and seed.

    Columns: `run_id`, `spec_hash`, all logged parameters under their own names (those of the spec
    that are numbers as numbers, the rest as text; `fields.DEFAULTS` where a trial is older
    than a parameter), `outcome` ("finished", "diverged", "stopped"; missing while unfinished),
    `status` (MLflow's), and at the epoch of least validation loss
    `best_epoch`, `bits_per_byte` and `macro` (percent), missing where the trial has none. Also
    `name`, `parent` (the sweep's run), `commit`, `reason` (why it ended so; missing if it just
    finished), `has_final`: whether it was scored once more, on its best checkpoint, and
    `has_milestones`: whether it was measured after numbers of words. Runs that do not say what they
    are have no row, see `count_unrecorded`.

    Args:
        store: an MLflow client, or the tracking URI.
        study: name of the experiment.

    Raises:
        ValueError: the store has no such study; the message lists those it has.
    """
    return _one_row_each(_trial_runs(_client(store), study))


def _one_row_each(found: Iterable[Run]) -> pd.DataFrame:
    frame = pd.DataFrame([_trial_row(run) for run in found if _is_named(run)])
    frame = frame.reindex(columns=[*_COLUMNS, *frame.columns.difference(_COLUMNS)])
    for column in frame.columns.intersection(_NUMBERS):
        frame[column] = pd.to_numeric(frame[column])
    for column in frame.columns.intersection(_COUNTS):
        frame[column] = pd.to_numeric(frame[column]).astype("Int64")
    return frame.sort_values(["arch", "lr", "seed"], ignore_index=True)


def count_unrecorded(store: MlflowClient | str, study: str) -> int:
    """Count a study's trial runs that have not recorded what they are, and so are not in `trials`.

    A kill between a run's creation and the record of its parameters leaves such a run, until the
    trial goes on. Arguments and errors as for `trials`.
    """
    return sum(not _is_named(run) for run in _trial_runs(_client(store), study))


def epochs(store: MlflowClient | str, study: str) -> pd.DataFrame:
    """One row per trial and epoch: how validation and zero-shot figures went along.

    Columns: `run_id`, `spec_hash`, `arch`, `size`, `lr`, `seed`, `outcome`, `epoch`, and the
    metrics by epoch without their prefix: `bits_per_byte`, `loss`, `perplexity`, `macro`, and each
    benchmark, of the selection split and of the other items as `selection_...` and `held_out_...`;
    `train_loss`, `seconds`, `tokens_per_second`.
    Arguments and errors as for `trials`.
    """
    client = _client(store)
    found = [*_trial_runs(client, study)]
    keys = ["run_id", "spec_hash", "arch", "size", "lr", "seed", "outcome"]
    # A study without a finished epoch keeps these columns.
    columns = [*keys, "epoch", "bits_per_byte", *_SECONDS]
    values = _values_by_epoch(client, found)
    rows = [
        {**row, "epoch": epoch, **figures}
        for row in _one_row_each(found)[keys].to_dict("records")
        for epoch, figures in sorted(values.get(str(row["run_id"]), {}).items())
    ]
    frame = pd.DataFrame(rows)
    frame = frame.reindex(columns=[*columns, *frame.columns.difference(columns)])
    return frame.astype(dict.fromkeys(_SECONDS, float))


def _client(store: MlflowClient | str) -> MlflowClient:
    return MlflowClient(store) if isinstance(store, str) else store


def _trial_runs(client: MlflowClient, study: str) -> Iterator[Run]:
    experiment = client.get_experiment_by_name(study)
    if experiment is None:
        existing = ", ".join(sorted(found.name for found in client.search_experiments()))
        raise ValueError(
            f"--study: no study {study!r} in {without_secret(client.tracking_uri)}: it has "
            f"{existing or 'none'}"
        )
    return all_runs(client, experiment.experiment_id, "tags.`babysweep.kind` = 'trial'")


def _is_named(run: Run) -> bool:
    return all(name in run.data.params for name in _SPEC)


def _trial_row(run: Run) -> dict[str, object]:
    tags, metrics = run.data.tags, run.data.metrics
    row = {
        **DEFAULTS,
        **run.data.params,
        "run_id": run.info.run_id,
        "status": run.info.status,
        "name": run.info.run_name,
        "has_final": any(metric.startswith(_FINAL) for metric in metrics),
        "has_milestones": any(metric.startswith(_MILESTONE) for metric in metrics),
        **{column: tags.get(tag) for column, tag in _TAGS.items()},
        **{column: metrics.get(metric) for column, metric in _BEST.items()},
    }
    if row["outcome"] == "finished":
        row["reason"] = None  # of a failure, after which it went on
    return row


def _values_by_epoch(
    client: MlflowClient, found: Iterable[Run]
) -> dict[str, dict[int, dict[str, float]]]:
    """By run and epoch, the figures."""
    runs_with: dict[str, list[str]] = {}
    for run in found:
        for metric in run.data.metrics:
            runs_with.setdefault(metric, []).append(run.info.run_id)
    values: dict[str, dict[int, dict[str, float]]] = {}
    for metric, run_ids in runs_with.items():
        prefix, _, name = metric.partition("/")
        if f"{prefix}/" in _BY_EPOCH:
            name = _BY_EPOCH[f"{prefix}/"] + name
            for run_id, epoch, value in _points(client, metric, run_ids):
                values.setdefault(run_id, {}).setdefault(epoch, {})[name] = value
    return values


def _points(
    client: MlflowClient, metric: str, run_ids: list[str]
) -> Iterator[tuple[str, int, float]]:
    """A metric's points in several runs: run, step and value."""
    if client.tracking_uri.startswith(("http://", "https://")):
        for start in range(0, len(run_ids), _RUNS_AT_ONCE):
            yield from _points_at_once(client, metric, run_ids[start : start + _RUNS_AT_ONCE])
    else:
        yield from _points_one_by_one(client, metric, run_ids)


def _points_one_by_one(
    client: MlflowClient, metric: str, run_ids: list[str]
) -> Iterator[tuple[str, int, float]]:
    for run_id in run_ids:
        for point in client.get_metric_history(run_id, metric):
            yield run_id, point.step, point.value


def _points_at_once(
    client: MlflowClient, metric: str, run_ids: list[str]
) -> Iterator[tuple[str, int, float]]:
    """As MLflow's pages ask for them: a request for each run would take minutes for a study."""
    answer = http_request(
        get_default_host_creds(client.tracking_uri),  # type: ignore[no-untyped-call]
        _HISTORIES,
        "GET",
        params={"run_id": run_ids, "metric_key": metric, "max_results": _MOST_POINTS},
    )
    is_there = answer.status_code != _NOT_FOUND  # MLflow's client does not promise it
    if is_there:
        augmented_raise_for_status(answer)  # type: ignore[no-untyped-call]
    points = answer.json()["metrics"] if is_there else []
    if is_there and len(points) < _MOST_POINTS:
        yield from ((each["run_id"], int(each["step"]), float(each["value"])) for each in points)
    else:
        yield from _points_one_by_one(client, metric, run_ids)
