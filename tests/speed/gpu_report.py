"""The tables of `gpu_speed`, and its targets: met, missed or not measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.speed.speed_report import Grid, number

Row = dict[str, Any]
NAN = float("nan")

MFU = 0.40
"""Least share of the peak, of the transformer at `base`."""
AGAINST_PEER = {"transformer": 0.95, "hgrn2": 1.0, "mamba": 1.0, "xlstm": 1.0, "lstm": 1.0}
"""Least tokens/s over those of each peer at `base`."""
AGAINST_TRANSFORMER = {"hgrn2": 0.6, "mamba": 0.5, "xlstm": 0.35}
"""Least tokens/s over those of our transformer at `base`."""
FIRST_STEP = {"base": 60.0, "paper": 90.0}
"""Most seconds to the first step on a machine that never ran one."""
SLSTM = {"forward": 12.0, "backward": 25.0}
"""Most microseconds of a step."""
DISTILLATION = 1.4
"""Most time of a step with a teacher over that of one without."""
TOGETHER = 0.4
"""Most time of four mini trials at once over that of one after the other."""
SWEPT = "small"
SWEEP_SECONDS = 360.0
DRY_RUN = 0.2
"""Most error of the time that the dry run foretells."""


@dataclass(frozen=True)
class Verdict:
    """A target, and what was measured: None if nothing was."""

    target: str
    measured: float | None
    bound: float
    at_most: bool
    remark: str = ""

    @property
    def verdict(self) -> str:
        if self.measured is None:
            return "not measured"
        met = self.measured <= self.bound if self.at_most else self.measured >= self.bound
        return "met" if met else "missed"


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Of every target. On a CPU, where the tool is only tried, nothing counts as measured."""
    if any(row.get("device") == "cpu" for row in rows):
        rows = []
    return [
        *_of_mfu(rows),
        *_of_peers(rows),
        *_of_transformer(rows),
        *_of_first_steps(rows),
        *_of_kernels_and_trials(rows),
        *_of_sweep(rows),
    ]


def _of_mfu(rows: Sequence[Row]) -> list[Verdict]:
    row = _find(rows, "ours", "transformer")
    return [
        Verdict("transformer, base: MFU", row.get("mfu"), MFU, at_most=False, remark=_remark(row))
    ]


def _of_peers(rows: Sequence[Row]) -> list[Verdict]:
    found = []
    for arch, bound in AGAINST_PEER.items():
        peers = [row for row in _all(rows, "peer") if row["arch"] == arch and _is_base(row)]
        for row in peers or [{"who": "its peer"}]:
            target = f"{arch}, base: tokens/s / {row['who']}"
            found.append(Verdict(target, row.get("ratio"), bound, False, _remark(row)))
    return found


def _of_transformer(rows: Sequence[Row]) -> list[Verdict]:
    yardstick = _find(rows, "ours", "transformer").get("tokens_per_second")
    found = []
    for arch, bound in AGAINST_TRANSFORMER.items():
        row = _find(rows, "ours", arch)
        rate = row.get("tokens_per_second")
        share = rate / yardstick if rate and yardstick else None
        target = f"{arch}, base: tokens/s / our transformer"
        found.append(Verdict(target, share, bound, False, _remark(row)))
    return found


def _of_first_steps(rows: Sequence[Row]) -> list[Verdict]:
    found = []
    for row in _all(rows, "cold"):
        if row["size"] in FIRST_STEP:
            seconds, remark = row.get("seconds"), _remark(row)
            if row.get("tuned"):
                remark = f"tuned: {', '.join(row['tuned'])}"
            target = f"{row['arch']}, {row['size']}: seconds to the first step, cold"
            found.append(Verdict(target, seconds, FIRST_STEP[row["size"]], True, remark))
    nothing = Verdict("first step of each architecture, cold", None, FIRST_STEP["base"], True)
    return found or [nothing]


def _of_kernels_and_trials(rows: Sequence[Row]) -> list[Verdict]:
    found = []
    for direction, bound in SLSTM.items():
        row = next((r for r in _all(rows, "slstm") if r["direction"] == direction), {})
        microseconds = row.get("microseconds")
        found.append(Verdict(f"sLSTM, us a step {direction}", microseconds, bound, True))
    for row in _all(rows, "distill") or [{}]:
        target = " ".join(filter(None, (row.get("arch"), "step with a teacher / without")))
        found.append(Verdict(target, row.get("ratio"), DISTILLATION, True, _remark(row)))
    for row in _all(rows, "together") or [{}]:
        target = "four mini trials at once / one after the other" + ", MPS" * row.get("mps", False)
        found.append(Verdict(target, row.get("ratio"), TOGETHER, True, _remark(row)))
    return found


def _of_sweep(rows: Sequence[Row]) -> list[Verdict]:
    row = next(iter(_all(rows, "sweep")), {})
    remark = row.get("problem") or (
        f"BLiMP scored by {row['scored']}, {row['trials']} trials" if row else ""
    )
    seconds = None if row.get("problem") else row.get("seconds")
    target = f"sweep of all architectures at {SWEPT}, s"
    found = [Verdict(target, seconds, SWEEP_SECONDS, True, remark), _of_dry_run(rows, row)]
    for first in _all(rows, "first step in a sweep"):
        target = f"{first['arch']}, {first['size']}: seconds to the first step in a sweep, cold"
        remark = f"since {first['since']}; {first['since_command']:.0f} s since the command"
        found.append(Verdict(target, first["seconds"], FIRST_STEP["base"], True, remark))
    return found


def _of_dry_run(rows: Sequence[Row], sweep: Row) -> Verdict:
    """How far the training that there was is from what was foretold."""
    dry = next(iter(_all(rows, "dry run")), {})
    took = sweep.get("trained")
    far, remark = None, _remark(dry)
    if took and "foretold" in dry:
        far = abs(dry["foretold"] / took - 1)
        remark = f"{dry['foretold']:.0f} s foretold, {took:.0f} s of training; "
        remark += f"{sweep['seconds']:.0f} s in all"
    return Verdict("dry run: its error, of the time of training", far, DRY_RUN, True, remark)


def tables(rows: Sequence[Row]) -> list[Grid]:
    """What was measured, and the targets."""
    grids = []
    measured = [row for row in rows if row["what"] in ("ours", "peer")]
    if measured:
        grids.append(_steps(rows, measured))
    problems = [row for row in rows if row["what"] == "problem"]
    if problems:
        texts = [(row["part"], row["problem"]) for row in problems]
        grids.append(Grid("Parts that did not end", ("target", "note"), texts))
    left_out = [row for row in rows if row["what"] == "not measured"]
    if left_out:
        texts = [(row["part"], row["reason"]) for row in left_out]
        title = "Not measured, because the time was up"
        grids.append(Grid(title, ("target", "note"), texts))
    grids.append(_targets(verdicts(rows)))
    return grids


def _steps(rows: Sequence[Row], measured: Sequence[Row]) -> Grid:
    columns = ("size", "architecture", "path", "batch", "ms", "tokens/s", "MFU", "GB")
    return Grid(
        "Training steps; x: tokens/s of ours over the peer's, with the least and the greatest of "
        "the rounds",
        (*columns, "1st step s", "cold s", "x", "note"),
        [_step(row, rows) for row in measured],
    )


def _step(row: Row, rows: Sequence[Row]) -> tuple[str, ...]:
    cold = next(
        (r for r in _all(rows, "cold") if (r["size"], r["arch"]) == (row["size"], row["arch"])), {}
    )
    batch = f"{row['batch']} x {row['context']}" if "batch" in row else "-"
    pieces = row.get("micro_batch")
    ratio = "-"
    if "ratio" in row:
        ratio = f"{row['ratio']:.2f} ({row['ratio_low']:.2f}-{row['ratio_high']:.2f})"
    return (
        row["size"],
        row["arch"],
        row["who"],
        batch + (f" by {pieces}" if pieces not in (None, row.get("batch")) else ""),
        _number(row, "milliseconds", ".1f"),
        _number(row, "tokens_per_second", ",.0f"),
        _number(row, "mfu", ".1%"),
        _number(row, "memory", ".1f"),
        _number(row, "first_step", ".1f"),
        _number(cold, "seconds", ".0f") if row["what"] == "ours" else "-",
        ratio,
        _remark(row),
    )


def _targets(found: Sequence[Verdict]) -> Grid:
    return Grid(
        "Targets",
        ("verdict", "target", "measured", "bound", "remark"),
        [
            (
                each.verdict,
                each.target,
                number(NAN if each.measured is None else each.measured, ".2f"),
                f"{'<=' if each.at_most else '>='} {each.bound:g}",
                each.remark,
            )
            for each in found
        ],
    )


def _all(rows: Sequence[Row], what: str) -> list[Row]:
    return [row for row in rows if row["what"] == what]


def _find(rows: Sequence[Row], what: str, arch: str) -> Row:
    """The row of an architecture at `base`; empty if there is none."""
    found = [row for row in _all(rows, what) if row["arch"] == arch and _is_base(row)]
    return found[0] if found else {}


def _is_base(row: Row) -> bool:
    return bool(row["size"] == "base")


def _remark(row: Row) -> str:
    return str(row.get("problem") or row.get("remark") or "")


def _number(row: Row, name: str, form: str) -> str:
    value = row.get(name)
    return number(NAN if value is None else value, form)
