"""Signals to end: raised at once, or noted until the state is saved; handlers are as before afterwards."""

import signal
import threading
from collections.abc import Iterator

import pytest

from quantbooth.runtime.signals import Deferred, Terminated, signals_end_the_process

ENDING = [signal.SIGTERM, signal.SIGUSR1]


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in (*ENDING, signal.SIGINT)]


@pytest.fixture(autouse=True)
def _foreground() -> Iterator[None]:
    """Let Ctrl-C interrupt: a shell starts background processes with SIGINT ignored, pytest among them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_raises_where_the_process_is(number: signal.Signals) -> None:
    before = handlers()
    with pytest.raises(Terminated) as stopped, signals_end_the_process():
        signal.raise_signal(number)
    assert (stopped.value.code, stopped.value.signal) == (143, number)
    assert not isinstance(stopped.value, Exception)
    assert handlers() == before


@pytest.mark.parametrize(
    ("number", "error"), [*((number, Terminated) for number in ENDING), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_deferred_signal_raises_when_the_work_is_ready(number: signal.Signals, error: type[BaseException]) -> None:
    before = handlers()
    with signals_end_the_process(), Deferred() as deferred:
        deferred.raise_noted()
        signal.raise_signal(number)
        assert deferred.noted == number
        with pytest.raises(error):
            deferred.raise_noted()
    assert handlers() == before


def test_a_second_signal_does_not_wait() -> None:
    with signals_end_the_process(), Deferred():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_an_ignored_interruption_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Deferred() as deferred:
            signal.raise_signal(signal.SIGINT)
        assert deferred.noted is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_leave_signals_alone() -> None:
    seen = []

    def work() -> None:
        with signals_end_the_process(), Deferred():
            seen.append(handlers())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [handlers()]
