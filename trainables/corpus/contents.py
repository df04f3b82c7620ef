"""What was read of a corpus, and what was not and why, as a short table."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from trainables.corpus.file_names import FileName, shown
from trainables.corpus.folders import SkippedPath

MOST_FILES = 9
"""With more, the files are counted by suffix."""
MOST_REASONS = 7


def contents(
    folder: Path,
    words: Mapping[Path, int],
    dev_words: int,
    left_out: Sequence[SkippedPath],
    warnings: Iterable[str] = (),
) -> str:
    """A table of at most 20 lines.

    Args:
        folder: in relation to which files are named.
        words: of each file that was read.
        dev_words: how many of all words validate.
        left_out: the files that were not read.
        warnings: lines to follow the table.
    """
    rows = [(f"{count:,}", shown(file, folder)) for file, count in words.items()]
    if len(rows) > MOST_FILES:
        rows = _by_suffix(words)
    total = sum(words.values())
    head = f"{total:,} words in {_count(len(words), 'file')}, {dev_words:,} of them for validation"
    lines = [head, *_columns(rows, numbers=True)]
    if left_out:
        size = sum(each.size for each in left_out)
        number = _count(len(left_out), "file or folder", "files and folders")
        lines.append(f"left out: {number}" + (f", {_count(size, 'byte')}" if size else ""))
        lines += _columns(_by_reason(left_out, folder))
    return "\n".join([*lines, *warnings])


def _by_suffix(words: Mapping[Path, int]) -> list[tuple[str, str]]:
    counts: Counter[str] = Counter()
    files: Counter[str] = Counter()
    for file, count in words.items():
        suffix = file.name[len(FileName.of(file.name).stem) :] or "without a suffix"
        counts[suffix.lower()] += count
        files[suffix.lower()] += 1
    rows = [
        (count, f"{suffix} ({_count(files[suffix], 'file')})")
        for suffix, count in counts.most_common()
    ]
    if len(rows) > MOST_FILES:
        rest = rows[MOST_FILES - 1 :]
        rows = [*rows[: MOST_FILES - 1], (sum(count for count, _ in rest), "others")]
    return [(f"{count:,}", name) for count, name in rows]


def _by_reason(left_out: Sequence[SkippedPath], folder: Path) -> list[tuple[str, str]]:
    groups = defaultdict(list)
    for each in left_out:
        groups[each.reason.what].append(each)
    rows = []
    ordered = sorted(groups.values(), key=lambda files: -sum(each.size for each in files))
    for files in ordered:
        names = shown(files[0].file, folder)
        if len(files) > 1:
            names += f" and {len(files) - 1:,} more"
        rows.append((names, str(files[0].reason)))
    if len(rows) > MOST_REASONS:
        others = sum(map(len, ordered[MOST_REASONS - 1 :]))
        rows = [*rows[: MOST_REASONS - 1], (f"{others:,} others", "for other reasons")]
    return rows


def _columns(rows: Sequence[tuple[str, str]], *, numbers: bool = False) -> list[str]:
    """Indented rows of two columns, of which the first may hold numbers."""
    width = max((len(first) for first, _ in rows), default=0)
    side = ">" if numbers else "<"
    return [f"  {first:{side}{width}}  {second}" for first, second in rows]


def _count(number: int, one: str, more: str = "") -> str:
    return f"{number:,} {one if number == 1 else more or one + 's'}"
