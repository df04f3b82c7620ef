"""The largest and smallest values that ranges allow: answered as soon as any other."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import pytest

from analysis.schema.ranges import Range, flag_of
from tests.fuzz.asking import Asker
from tests.fuzz.ground import COMMANDS, Ground

pytestmark = pytest.mark.slow


def ends(allowed: Range) -> Iterator[str]:
    """The least and the greatest number of a range."""
    low, high = allowed.ends
    if allowed.below:
        high = math.nextafter(high, -math.inf)
    yield from (str(low), str(high))


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if command.flags])
def test_they_are_taken_or_refused_in_time(name: str, ground: Ground, asker: Asker) -> None:
    """Nothing takes time or memory as long as a number is large before that is known to fit."""
    command = COMMANDS[name]
    words = command.words(ground)
    faults, count = [], 0
    for field in dataclasses.fields(command.flags):
        if (allowed := field.metadata.get("range")) is None:
            continue
        flag = flag_of(field.name)
        for text in ends(allowed):
            count += 1
            answer = asker.ask(command.main, [*words, flag, text])
            # Whatever the error names: a study of so many tokens, say, that is not there.
            if not answer.begins and (fault := answer.fault("")):
                faults.append(f"{flag} {text}: {fault}")
    asker.conclude(f"{name}: {count} largest and smallest values", faults)
