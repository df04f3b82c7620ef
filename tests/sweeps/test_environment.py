"""Which cluster a command uses, and what it says when none is there."""

from __future__ import annotations

import signal
import socket

import pytest

from sweeps.engine.environment import check_address, is_local
from sweeps.engine.signals import ENDING, ending_on_signals


def test_an_empty_address_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """`RAY_ADDRESS=` joins no cluster that happens to run."""
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert is_local(None)
    check_address(None)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert not is_local(None)
    assert is_local("local")


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_a_cluster_that_is_not_there_is_named_at_once(form: str) -> None:
    """Not after minutes of waiting; one that listens is taken."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = form.format(server.getsockname()[1])
        with pytest.raises(ValueError, match=f"no Ray cluster answers at {address} "):
            check_address(address)  # bound, but it does not listen
        server.listen()
        check_address(address)


def test_an_address_without_a_number_is_refused() -> None:
    """A port is a number up to 65535."""
    for port in ("head", "99999"):
        with pytest.raises(ValueError, match=f"no Ray cluster answers at 127.0.0.1:{port} "):
            check_address(f"127.0.0.1:{port}")


@pytest.mark.parametrize("number", ENDING)
def test_signals_interrupt_a_command_and_nothing_else(number: signal.Signals) -> None:
    """What was there before comes back, after an interrupted command as well."""
    before = {each: signal.getsignal(each) for each in ENDING}
    with pytest.raises(KeyboardInterrupt), ending_on_signals():
        signal.raise_signal(number)
    assert {each: signal.getsignal(each) for each in ENDING} == before


def test_what_nohup_ignores_stays_ignored() -> None:
    """A closed terminal does not end the command then."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ending_on_signals():
            signal.raise_signal(signal.SIGHUP)
            assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
