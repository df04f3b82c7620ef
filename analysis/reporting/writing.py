"""From a study to the files of its report."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from rich.markup import escape

from analysis.addresses import address_in, check_address, copy_of
from analysis.arguments import ReportArgs
from analysis.config_file import save_config
from analysis.errors import say_error, without_secret
from analysis.flag_values import checked
from analysis.places import resolved, writable_folder
from analysis.reporting.page import Page, render
from analysis.reporting.sections.architectures import architectures
from analysis.reporting.sections.beside_literature import beside_literature
from analysis.reporting.sections.common import ReportContext, ReportPart
from analysis.reporting.sections.cost import cost
from analysis.reporting.sections.distillation import distillation
from analysis.reporting.sections.epoch_study import epoch_study
from analysis.reporting.sections.finals import finals
from analysis.reporting.sections.further_axes import further_axes
from analysis.reporting.sections.milestones import milestones
from analysis.reporting.sections.optimism import optimism
from analysis.reporting.sections.phenomena import phenomena
from analysis.reporting.sections.rates import rates
from analysis.reporting.sections.reproduction import every_trial, reproduction
from analysis.reporting.tables import write_tables
from analysis.signals import ending_on_signals
from analysis.store import explained, how_to_browse, name_of, open_store, tracking_uri, ui_of
from analysis.study import Study
from analysis.terminal import open_console, say, show_whole, showing
from analysis.whole_files import write_text
from analysis.wording import count, quoted

_PARTS: tuple[Callable[[ReportContext], ReportPart | None], ...] = (
    *(architectures, rates, further_axes, epoch_study, distillation, phenomena, milestones),
    *(finals, optimism, beside_literature, cost, reproduction, every_trial),
)


def run_report(args: ReportArgs) -> int:
    """Write the report and print its answers; returns the exit status."""
    console = open_console()
    try:
        with ending_on_signals(), showing(console, "Reading the study") as show_stage:
            args = checked(args)
            with explained(tracking_uri(storage_of(args.storage))):
                page, path = write_report(args, show_stage)
    except (ValueError, OSError) as error:
        return say_error(error)
    for answer in page.answers:
        say(console, f"- {escape(answer)}")
    for warning in page.warnings:
        say(console, f"[yellow]- {escape(warning)}[/]")
    console.print()
    show_whole(console, "Report", str(path))
    browse = (without_secret(args.ui),) if args.ui else how_to_browse(storage_of(args.storage))
    show_whole(console, "Browse", *browse)
    return 0


def write_report(args: ReportArgs, say: Callable[[str], None]) -> tuple[Page, Path]:
    """Write the report; returns its page and the HTML file.

    Args:
        args: the command's.
        say: told what is being done.

    Raises:
        ValueError: there is no such store or study, or nothing of the kind to choose by.
    """
    storage = storage_of(args.storage)
    uri = tracking_uri(storage)
    ui = without_secret(args.ui or ui_of(uri))
    if not ui.startswith(("http://", "https://")):
        raise ValueError(f"--ui must begin with http:// or https://, not {ui!r}")
    study = Study.open(uri, args.study or only_study(uri), ui)
    output = args.output or storage / folder_name(study.name) / "report"
    folder = writable_folder(resolved(output, "--output"), "--output")
    save_config(folder, args)
    for name in ("pictures", "tables"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    context = ReportContext(study, args.select, folder / "pictures")
    parts = []
    for part in _PARTS:
        say(f"Writing the report: {part.__name__.replace('_', ' ')}")
        found = part(context)
        if found is not None:
            parts.append(found)
    page = Page(
        title=f"Study {study.name}",
        subtitle=_subtitle(study),
        answers=tuple(answer for part in parts for answer in part.answers),
        warnings=tuple(dict.fromkeys(warning for part in parts for warning in part.warnings)),
        sections=tuple(part.section for part in parts),
    )
    path = folder / "report.html"
    write_text(path, render(page))
    write_tables(page, folder / "tables")
    return page, path


def folder_name(study: str) -> str:
    """A study's name as that of one folder: MLflow also allows "/Users/me/x", or ".."."""
    name = re.sub(r"[/\\]+", "_", study)
    return name if name.strip(".") else "_"


def storage_of(storage: Path | None) -> Path:
    """The folder of the sweeps: the one given, or $BABYSWEEP_STORAGE, or the checkout's `runs`."""
    default = os.environ.get("BABYSWEEP_STORAGE") or Path(__file__).resolve().parents[2] / "runs"
    if (address := address_in(storage or default)) is not None:
        check_address(address, "--storage")
        return copy_of(address)
    return resolved(storage or default, "--storage")


def only_study(uri: str) -> str:
    """The name of the store's only study with a run.

    Raises:
        ValueError: there is none, or there are several.
    """
    client = open_store(uri)
    names = [
        experiment.name
        for experiment in client.search_experiments()
        if client.search_runs([experiment.experiment_id], max_results=1)
    ]
    if len(names) == 1:
        return names[0]
    if not names:
        raise ValueError(
            f"no study in {without_secret(uri)} has a run: run sweeps/lr_sweep.py first"
        )
    raise ValueError(
        f"{without_secret(uri)} has several studies: give one as --study: "
        f"{', '.join(map(quoted, sorted(names)))}"
    )


def _subtitle(study: Study) -> str:
    trials = study.trials
    ended = int(trials["outcome"].notna().sum())
    archs = ", ".join(sorted(trials["arch"].dropna().unique()))
    return (
        f"{ended} of {count(len(trials), 'trial')} ended; {archs}. Written "
        f"{datetime.now(UTC).strftime('%Y-%m-%d %H:%M')} UTC from {name_of(study.uri)}."
    )
