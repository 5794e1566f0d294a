"""Processes of one training: they meet, join values, and end together; errors of others are raised in the first."""

import os
import signal
from multiprocessing import active_children

import pytest
import torch
import torch.distributed as dist

from forked import server
from quantbooth.runtime import processes
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.processes import Share, together

pytestmark = pytest.mark.chain


def values(share: Share) -> torch.Tensor:
    """Two values of each process, with gradient: rank, and rank plus 10."""
    return torch.tensor([float(share.rank), share.rank + 10.0], requires_grad=True)


def work(share: Share, kind: str) -> None:
    """What the further process does."""
    if kind == "mistake":
        raise UserError("the other has no data")
    if kind == "cannot be pickled":
        raise type("LocalError", (RuntimeError,), {})("a bug")
    share.meet(torch.device("cpu"))
    share.joined(values(share))
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    share.joined(values(share))


def first(kind: str) -> torch.Tensor:
    """What this process does."""
    with together(2, work, kind) as share:
        assert share is not None
        share.meet(torch.device("cpu"))
        own = values(share)
        joined = share.joined(own)
        share.joined(own)
        (gradient,) = torch.autograd.grad((joined * torch.arange(4.0)).sum(), own)
        assert gradient.tolist() == [2 * 0.0, 2 * 2.0]  # of the rows 0 and 2, times the number of processes
        return joined


def test_one_process_is_alone() -> None:
    with together(1, work, "") as share:
        assert share is None
    assert not active_children()


def test_rows_of_all_processes_are_in_their_places() -> None:
    threads = torch.get_num_threads()
    assert first("").tolist() == [0, 1, 10, 11]
    assert not dist.is_initialized()
    assert not active_children()
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("kind", "error", "line"),
    [
        ("mistake", UserError, "^the other has no data$"),
        ("cannot be pickled", RuntimeError, "LocalError: a bug"),
        ("killed", UserError, r"^process 2 of trainer\.devices=2 .*\(SIGKILL\)"),
    ],
)
def test_an_error_of_another_process_is_raised_here(
    kind: str, error: type[Exception], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "get_context", lambda _: server())  # spawned above
    with pytest.raises(error, match=line):
        first(kind)
    assert not dist.is_initialized()
    assert not active_children()
