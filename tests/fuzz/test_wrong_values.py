"""Wrong values: each is refused with an error that names the flag, before Ray starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.asking import Asker
from tests.fuzz.ground import COMMANDS, Ground
from tests.fuzz.values import FILES_OF_FLAGS, wrong_values

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if command.flags])
def test_a_wrong_value_is_refused(name: str, ground: Ground, asker: Asker) -> None:
    """Every flag of the command, with every value that it cannot have."""
    command = COMMANDS[name]
    words = command.words(ground)
    faults, count = [], 0
    for wrong in wrong_values(command.flags, ground):
        count += 1
        if fault := asker.ask(command.main, [*words, *wrong.words]).fault(*wrong.names):
            faults.append(f"{' '.join(wrong.words)[:80]!r}: {fault}")
    asker.conclude(f"{name}: {count} wrong values", faults)


@pytest.mark.parametrize("name", ["lr_sweep", "evaluate", "report"])
def test_a_wrong_value_in_a_file_is_refused(
    name: str, ground: Ground, asker: Asker, tmp_path: Path
) -> None:
    """As on the command line; the file or the flag is named."""
    command, file = COMMANDS[name], tmp_path / "flags.json"
    words = command.words(ground)
    faults, count = [], 0
    for wrong in wrong_values(command.flags, ground):
        if text := wrong.as_file(command.flags, words):
            count += 1
            file.write_text(text)
            answer = asker.ask(command.main, [*words, "--config", str(file)])
            if fault := answer.fault(str(file), *wrong.names):
                faults.append(f"{text[:80]!r}: {fault}")
    asker.conclude(f"{name}: {count} wrong values in a file", faults)


@pytest.mark.parametrize("name", ["lr_sweep", "paper", "distill"])
@pytest.mark.parametrize("ending", FILES_OF_FLAGS)
def test_a_wrong_file_of_flags_is_named(
    ending: str, name: str, ground: Ground, asker: Asker, tmp_path: Path
) -> None:
    """Whatever it holds: too much, too deep, of no kind, or no text at all."""
    file, command = tmp_path / f"flags{ending}", COMMANDS[name]
    contents = [*(text.encode() for text in FILES_OF_FLAGS[ending]), b"\xff\xfe\x00", b"\x00" * 99]
    faults = []
    for content in contents:
        file.write_bytes(content)
        if fault := asker.ask(command.main, [*command.words(ground), "--config", str(file)]).fault(
            str(file)
        ):
            faults.append(f"{content[:60]!r}: {fault}")
    asker.conclude(f"{name}: {len(contents)} wrong files of flags", faults)


def test_there_are_hundreds_of_them(ground: Ground) -> None:
    """Over all commands, before any damaged file."""
    kinds = [command.flags for command in COMMANDS.values() if command.flags]
    count = sum(len([*wrong_values(kind, ground)]) for kind in kinds)
    print(f"{count} wrong values")
    assert count >= 400


@pytest.mark.parametrize("word", ["--no-such-flag", "--size=paper", "paper", "", "--help=x"])
def test_a_word_that_sizes_does_not_know(word: str, asker: Asker) -> None:
    """The command has no flags; what it is given is named."""
    command = COMMANDS["sizes"]
    fault = asker.ask(command.main, [word]).fault(word or "unrecognized", "--help")
    assert not fault


@pytest.mark.parametrize("name", ["a?b", "a#b", ".", "./", "a&b=c"])
def test_a_storage_works_or_is_refused(
    name: str, ground: Ground, asker: Asker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With any characters, as the current folder too: nothing is written beside it."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    storage = here if name.startswith(".") else here / name
    given = name if name.startswith(".") else str(storage)
    command = COMMANDS["lr_sweep"]
    answer = asker.ask(command.main, [*command.words(ground), f"--storage={given}"])
    assert answer.begins or (not name.startswith(".") and not answer.fault("--storage")), answer
    assert [path for path in tmp_path.rglob("*") if not path.is_relative_to(storage)] in (
        [here],
        [],
    )
    assert not answer.begins or (storage / "mlflow.db").is_file()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_words_before_are_right(name: str, ground: Ground, asker: Asker) -> None:
    """Without the wrong value the command goes on: it is the value that is refused."""
    command = COMMANDS[name]
    answer = asker.ask(command.main, command.words(ground))
    assert answer.begins, answer
