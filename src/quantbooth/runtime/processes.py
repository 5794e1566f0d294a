"""Processes that share one training by DDP: this one is the first, which shows and writes; the others follow its steps.

with together(3, follow, settings) as share:     follow(share, settings) runs in two further processes
    Trainer(strategy="ddp", devices=3).fit(...)  in each of them, and here

They are spawned, not forked, so that they may use GPUs and threads, and not started by the command line again, so that
jobs of a sweep can start them. They end with the block, or with this process. An error of one is raised here.
"""

import contextlib
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist
from jaxtyping import Float
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from torch import Tensor

from quantbooth.runtime.errors import UserError
from quantbooth.runtime.signals import ENDING

__all__ = ["Meeting", "Share", "ignore_signals", "together"]

PATIENCE = timedelta(days=1)
"""How long a process waits for another, which may draw previews or write; one that ends is noticed at once."""
READY = "ready"


class Share:
    """The part of one process in a training of several.

    Attributes:
        rank: of this process, 0 for the first.
        count: the number of processes.
    """

    def __init__(self, rank: int, count: int, meeting: str, threads: int) -> None:
        self.rank, self.count, self.meeting, self.threads = rank, count, meeting, threads
        self.before_meeting: Callable[[], None] = lambda: None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def rows(self) -> slice:
        """The rows of a joint batch that this process computes: every count-th."""
        return slice(self.rank, None, self.count)

    def meet(self, device: torch.device) -> None:
        """Wait for the other processes: gloo between CPUs, nccl between GPUs."""
        self.before_meeting()
        backend = "gloo" if device.type == "cpu" else "nccl"
        card = None if device.type == "cpu" else device
        dist.init_process_group(backend, self.meeting, PATIENCE, world_size=self.count, rank=self.rank, device_id=card)

    def joined(self, own: Float[Tensor, " own"]) -> Float[Tensor, " all"]:
        """Return the values of all rows of the joint batch, from those of each process.

        DDP averages gradients over processes; the gradient of these values is that of all rows in this average.
        """
        parts = [torch.empty_like(own) for _ in range(self.count)]
        dist.all_gather(parts, own.detach().contiguous())
        parts[self.rank] = own.detach() + self.count * (own - own.detach())
        return torch.stack(parts, dim=1).flatten()


class Meeting(LightningEnvironment):
    """Lightning's description of processes that are started already."""

    def __init__(self, share: Share) -> None:
        super().__init__()
        self.share = share
        self.set_global_rank(share.rank)

    @property
    def creates_processes_externally(self) -> bool:
        return True

    def local_rank(self) -> int:
        return self.share.rank


@contextlib.contextmanager
def together(count: int, work: Callable[..., object], *given: object) -> Iterator[Share | None]:
    """Run `work(share, *given)` in `count` - 1 further processes, and give this one its share; None if it is the only.

    Args:
        count: the number of processes, which divide the threads of this one.
        work: a function of a module.
        given: what can be pickled.

    Raises:
        Exception: that of another process, here, when this one fails because of it.
        UserError: when another process was ended from outside.
    """
    if count == 1:
        yield None
        return
    threads = torch.get_num_threads()
    with TemporaryDirectory(prefix="quantbooth-") as folder:
        meeting, each = Path(folder, "meeting").as_uri(), max(1, threads // count)
        others = [_Other(Share(rank, count, meeting, each), work, given) for rank in range(1, count)]
        share = Share(0, count, meeting, each)
        share.before_meeting = lambda: _wait_for(others)
        torch.set_num_threads(each)
        try:
            yield share
        except UserError:
            raise  # all processes see the same mistakes
        except Exception as error:
            for other in others:
                if (cause := other.error()) is not None:
                    raise cause from error
            raise
        finally:
            for other in others:
                other.end()
            if dist.is_initialized():
                dist.destroy_process_group()
            torch.set_num_threads(threads)


class _Other:
    """A further process."""

    def __init__(self, share: Share, work: Callable[..., object], given: Sequence[object]) -> None:
        context = get_context("spawn")
        self.share = share
        self.heard, said = context.Pipe(duplex=False)
        payload = pickle.dumps((share.rank, share.count, share.meeting, share.threads, work, given))
        self.process: BaseProcess = context.Process(target=_serve, args=(payload, said), daemon=True)
        self.process.start()
        said.close()

    def error(self) -> Exception | None:
        """Return its error, or what ended it; None where it did not fail, or its error is known already."""
        self.process.join(timeout=1)
        if (found := self.said()) not in (None, READY):
            return found if isinstance(found, Exception) else RuntimeError(str(found))
        code = self.process.exitcode
        if code is None or code >= 0:
            return None
        return UserError(
            f"process {self.share.rank + 1} of trainer.devices={self.share.count} was ended from outside "
            f"({signal.Signals(-code).name}), as where memory runs out; the same command goes on from the last "
            "checkpoint, and trainer.devices=1 needs less memory"
        )

    def said(self) -> object:
        """Return what it sent, if anything."""
        with contextlib.suppress(EOFError):
            return self.heard.recv() if self.heard.poll() else None
        return None

    def end(self) -> None:
        """End it; it has nothing to write."""
        self.process.kill()
        self.process.join()
        self.heard.close()


def _wait_for(others: Sequence[_Other]) -> None:
    """Wait until all other processes are ready to meet.

    Raises:
        Exception: that of one that is not.
    """
    for other in others:
        connection.wait([other.heard, other.process.sentinel])
        if (found := other.said()) == READY:
            continue
        raise found if isinstance(found, Exception) else other.error() or RuntimeError(str(found))


def _serve(payload: bytes, said: Connection) -> None:
    """Work as a further process, without a word on the terminal."""
    ignore_signals()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)
    try:
        rank, count, meeting, threads, work, given = pickle.loads(payload)  # noqa: S301  # of the first process
        torch.set_num_threads(threads)
        share = Share(rank, count, meeting, threads)
        share.before_meeting = lambda: said.send(READY)
        work(share, *given)
    except Exception as error:
        if not isinstance(error, UserError):
            error.add_note("".join(traceback.format_exception(error)))
        try:
            said.send(error)
        except Exception:  # one that cannot be pickled
            said.send("".join(traceback.format_exception(error)))
        os._exit(1)


def ignore_signals() -> None:
    """Leave signals to the first process, which saves its state and ends the others."""
    for number in (*ENDING, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _end_with_parent() -> None:
    if (parent := parent_process()) is not None:
        parent.join()
    os._exit(1)
