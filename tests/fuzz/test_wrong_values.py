"""Wrong values: each is refused with an error that names the flag, before Ray starts."""

from __future__ import annotations

import pytest

from tests.fuzz.asking import Asker
from tests.fuzz.ground import COMMANDS, Ground
from tests.fuzz.values import wrong_values

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
    with asker.shown():
        print(f"{name}: {count} wrong values, {len(faults)} faults")
    assert not faults, "\n".join([f"{len(faults)} of {count}", *faults])


@pytest.mark.parametrize("name", COMMANDS)
def test_the_words_before_are_right(name: str, ground: Ground, asker: Asker) -> None:
    """Without the wrong value the command goes on: it is the value that is refused."""
    command = COMMANDS[name]
    answer = asker.ask(command.main, command.words(ground))
    assert answer.begins, answer
