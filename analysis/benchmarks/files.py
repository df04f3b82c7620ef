"""Rows of benchmarks' files and data sets, each with the place that it comes from."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from analysis.schema.typed import parse_json

Parsed = TypeVar("Parsed")

_MOST = 1e300  # JSON's numbers have no bound, and Python's reader takes NaN and Infinity
DEPTHS = ("fast_eval", "full_eval")
UTF_8 = "utf-8-sig"
"""With or without a byte-order mark in front, as some editors write it."""


@dataclass(frozen=True)
class SourceRow:
    """One row of a benchmark's file or data set, and where it comes from.

    Attributes:
        values: its fields.
        source: name of the file (without suffix) or split that it comes from.
        place: where it stands, for error messages.
    """

    values: dict[str, object]
    source: str
    place: str

    def parse(self, parser: Callable[[dict[str, object], str], Parsed]) -> Parsed:
        """The parser's answer for fields and source.

        Raises:
            ValueError: the parser's, after the row's place.
        """
        try:
            return parser(self.values, self.source)
        except ValueError as error:
            raise ValueError(f"{self.place}: {error}") from error


def is_json_lines(name: str) -> bool:
    """Whether a file is called *.jsonl, in small letters or capitals; hidden ones (`._a.jsonl`) are
    what a system left behind."""
    return name.lower().endswith(".jsonl") and not name.startswith(".")


def is_called(file: Path, names: Collection[str]) -> bool:
    """Whether a file has one of these names, its suffix in small letters or capitals."""
    return file.stem + file.suffix.lower() in names


def in_any_case(file: Path) -> Path:
    """The file so called, or one that is but for capitals in its suffix; this one if none is."""
    if file.exists() or not file.parent.is_dir():
        return file
    return min(
        (each for each in file.parent.iterdir() if is_called(each, {file.name})), default=file
    )


def is_zip(file: Path) -> bool:
    """Whether a file is called *.zip, in small letters or capitals."""
    return file.suffix.lower() == ".zip"


def depth_folders(folder: Path) -> list[Path]:
    """The BabyLM challenge's `fast_eval` and `full_eval` in a folder, as far as they are there."""
    if not folder.is_dir():
        return []
    return sorted(each for each in folder.iterdir() if each.name in DEPTHS and each.is_dir())


def read_table(file: Path, **options: Any) -> Any:
    """A table of comma-separated values as pandas' `read_csv` gives it with these options.

    Raises:
        ValueError: it is none; the file is named.
    """
    import pandas as pd  # a second: only for those who use it

    try:
        return pd.read_csv(file, encoding=UTF_8, **options)
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{file} is no table of comma-separated values ({error})") from error


def json_lines_files(folder: Path) -> list[Path]:
    """The *.jsonl files of a folder, in the order of their names."""
    return sorted(file for file in folder.iterdir() if is_json_lines(file.name) and file.is_file())


def find_json_lines(path: Path) -> Path | None:
    """The folder itself if it holds *.jsonl files, else None."""
    return path if path.is_dir() and json_lines_files(path) else None


def read_folder(folder: Path) -> Iterator[SourceRow]:
    """The rows of every `*.jsonl` file in a folder, in the order of their names.

    Raises:
        ValueError: no such file, or what `read_lines` refuses.
    """
    files = json_lines_files(folder)
    if not files:
        raise ValueError(f"{folder} holds no *.jsonl file: a benchmark has one or more")
    for file in files:
        yield from read_file(file)


def read_file(file: Path) -> Iterator[SourceRow]:
    """The rows of a file of JSON lines; errors as for `read_lines`."""
    return read_lines(read_text(file), file.stem, str(file))


def read_text(file: Path) -> str:
    """The text of a file, its lines ended by line feeds; ValueError if it is not UTF-8."""
    try:
        return file.read_text(encoding=UTF_8)
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text ({error.reason}, byte {error.start})") from None


def read_lines(text: str, source: str, place: str) -> Iterator[SourceRow]:
    """The rows of JSON lines. Lines of a list of objects, each on one line, are read as well.

    Raises:
        ValueError: no line, or one that is not a JSON object; place and line number are named, the
            text is not shown.
    """
    lines = text.split("\n")  # a JSON string may hold U+2028, so no splitlines
    # A byte-order mark stands within a text where files were put together.
    stripped = [(n, line.strip().removeprefix("\ufeff")) for n, line in enumerate(lines, start=1)]
    numbered = [(number, line) for number, line in stripped if line not in ("", "[", "]")]
    if not numbered:
        raise ValueError(f"{place} is empty: expected one JSON object per line")
    for number, line in numbered:
        where = f"{place}, line {number}"
        yield SourceRow(_object(_without_comma(line), where), source, where)


def _without_comma(line: str) -> str:
    """The line without a comma at its end, or before the bracket there, where it means nothing."""
    return re.sub(r",\s*}$", "}", line.removesuffix(","))


def read_object(file: Path) -> dict[str, object]:
    """The one JSON object that a file holds.

    Raises:
        ValueError: it holds another thing; the file is named.
    """
    return _object(read_text(file), str(file), of_a_line=False)


def _object(text: str, where: str, of_a_line: bool = True) -> dict[str, object]:
    try:
        values = parse_json(text)
    except json.JSONDecodeError as error:
        at = where if of_a_line else f"{where}, line {error.lineno}"
        raise ValueError(f"{at}: not valid JSON ({error.msg}, column {error.colno})") from None
    except (ValueError, RecursionError) as error:  # numbers and nesting beyond Python's limits
        raise ValueError(f"{where}: not valid JSON ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{where}: expected a JSON object, not {type(values).__name__}")
    if half := _half_pair(values) if "\\u" in text else "":
        raise ValueError(
            f"{where}: {half} is half of a surrogate pair, which is no character: write both "
            "halves, or the character itself"
        )
    return values


def _half_pair(values: dict[str, object]) -> str:
    """A surrogate that stands alone anywhere in the values, as JSON writes it; "" if none does."""
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        return f"\\u{ord(error.object[error.start]):04x}"
    return ""


def hub_rows(hub_id: str, split: str | None = None) -> Iterator[SourceRow]:
    """The rows of a data set on the Hugging Face hub, of all its configurations.

    Args:
        hub_id: e.g. "nyu-mll/blimp".
        split: which split; by default the only one.

    Raises:
        ValueError: it cannot be reached, or asks for a consent that the user's token lacks.
    """
    import datasets  # seconds: only for those who use it
    from huggingface_hub.errors import HfHubHTTPError

    try:
        for name in datasets.get_dataset_config_names(hub_id):
            loaded = datasets.load_dataset(hub_id, name, split=split)
            parts = loaded if isinstance(loaded, Mapping) else {split or "": loaded}
            if len(parts) > 1:
                raise ValueError(f"{hub_id} has the splits {', '.join(parts)}: one is needed")
            for part in parts.values():
                for index, values in enumerate(part):
                    yield SourceRow(dict(values), name, f"{hub_id}, {name}, row {index}")
    except (OSError, datasets.exceptions.DatasetsError, HfHubHTTPError) as e:
        raise ValueError(_why_not(hub_id, e)) from e


def _why_not(hub_id: str, error: Exception) -> str:
    text = f"{hub_id} cannot be read from the Hugging Face hub ({type(error).__name__})"
    if "gated" in f"{type(error).__name__} {error}".lower():
        return (
            f"{text}: it asks for your consent. Accept its terms on its page with your account, "
            "then `hf auth login` here or set HF_TOKEN"
        )
    return f"{text}: connect to the network, or download it elsewhere and give its folder"


def text_field(values: Mapping[str, object], key: str) -> str:
    """A field that must be a text with something in it.

    Raises:
        ValueError: it is not.
    """
    value = values.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"field {key!r} is missing, empty or not a string")
    return value


def number_field(values: Mapping[str, object], key: str) -> float:
    """A field that must be a number.

    Raises:
        ValueError: it is not.
    """
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_MOST < value < _MOST:
        raise ValueError(f"field {key!r} is missing or not a number")
    return value
