"""A run that goes on from a step: one run in its tracker, each step once; a W&B server that is not there."""

import csv
import http.server
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch.loggers import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from quantbooth.runtime import loggers, wandb_runs
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.explain import explain, is_mistake
from quantbooth.runtime.loggers import close, csv_logger, log_grid, log_scores, tensorboard_logger, wandb_logger
from quantbooth.runtime.wandb_runs import OneRun, require_server
from wandb_files import finished, history, wandb_steps

pytestmark = pytest.mark.chain

NAME = "rex,s2=a-w4-seed0-0123456789ab"
PICTURE = np.zeros((8, 16, 3), dtype=np.uint8)


def log(logger: Logger, steps: range) -> None:
    for step in steps:
        logger.log_metrics({"tune/loss": step / 7, "epoch": 0}, step=step)


def test_rows_before_the_step_stay_as_they_were(tmp_path: Path) -> None:
    first = csv_logger(str(tmp_path), NAME, 0)
    log(first, range(6))
    first.save()
    file = tmp_path / "csv" / NAME / "metrics.csv"
    before = file.read_text().splitlines()
    again = csv_logger(str(tmp_path), NAME, 4)
    assert file.read_text().splitlines() == before[:5]
    log(again, range(4, 8))
    close([again])
    after = file.read_text().splitlines()
    assert after[:7] == before
    assert [row["step"] for row in csv.DictReader(after)] == [str(step) for step in range(8)]


def test_a_run_that_begins_anew_has_no_rows_of_an_earlier_one(tmp_path: Path) -> None:
    for count in (6, 3):
        logger = csv_logger(str(tmp_path), NAME, 0)
        log(logger, range(count))
        close([logger])
    assert len((tmp_path / "csv" / NAME / "metrics.csv").read_text().splitlines()) == 1 + 3


@pytest.mark.parametrize("torn", ["", "x,y,z\n1", "epoch,step,tune/loss\n0,0,0.5\n0,1"])
def test_a_torn_file_of_rows_ends_no_run(tmp_path: Path, torn: str) -> None:
    file = tmp_path / "csv" / NAME / "metrics.csv"
    file.parent.mkdir(parents=True)
    file.write_text(torn)
    logger = csv_logger(str(tmp_path), NAME, 2)
    log(logger, range(2, 4))
    close([logger])
    assert [row["step"] for row in csv.DictReader(file.open())][-2:] == ["2", "3"]


@pytest.mark.parametrize("step", [4, 0])
def test_tensorboard_shows_each_step_once(tmp_path: Path, step: int) -> None:
    first = tensorboard_logger(str(tmp_path), NAME, 0)
    log(first, range(6))
    first.save()
    again = tensorboard_logger(str(tmp_path), NAME, step)
    log(again, range(step, 8))
    close([again])
    events = EventAccumulator(str(tmp_path / "tensorboard" / NAME), size_guidance={"scalars": 0})
    events.Reload()
    assert [event.step for event in events.Scalars("tune/loss")] == list(range(8))


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("WANDB_MODE", "offline")
    return tmp_path / "logs"


def test_wandb_goes_on_in_the_same_run_with_each_step_once(offline: Path) -> None:
    for start, end in ((0, 6), (4, 8)):
        logger = wandb_logger(str(offline), NAME, "quantbooth", start)
        log(logger, range(start, end))
        log_grid([logger], PICTURE, 6)
        close([logger])
        time.sleep(1.1)  # the folder of a run is named by the second
    (run,) = (offline / "wandb").glob("offline-run-*")
    assert run.name.partition("-rex")[2] == "-s2=a-w4-seed0-0123456789ab"
    assert wandb_steps(run) == list(range(8))
    assert len(list(run.rglob("*.png"))) == 1


def test_what_was_uploaded_stays(offline: Path) -> None:
    folder = offline / "wandb" / "offline-run-20260101_000000-rex-s2=a-w4-seed0-0123456789ab"
    other = offline / "wandb" / "offline-run-20260101_000000-x-rex-s2=a-w4-seed0-0123456789ab"
    for each in (folder, other):
        each.mkdir(parents=True)
    (folder / "run-rex.wandb.synced").touch()
    logger = wandb_logger(str(offline), NAME, "quantbooth", 0)
    log(logger, range(2))
    close([logger])
    assert folder.is_dir() and other.is_dir()


class Server:
    """What a W&B run does that is on the server already."""

    def __init__(self, last: int | None) -> None:
        self.summary = {} if last is None else {"trainer/global_step": last}
        self.steps: list[int] = []

    def log(self, metrics: dict[str, float]) -> None:
        self.steps.append(int(metrics["trainer/global_step"]))


@pytest.mark.parametrize(
    ("last", "given"), [(None, list(range(8))), (1, list(range(2, 8))), (3, [4, 5, 6, 7]), (5, [6, 7]), (9, [])]
)
def test_online_the_server_gets_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int | None, given: list[int]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(loggers, "require_server", lambda: None)
    for start, end, server in ((0, 6, Server(None)), (4, 8, Server(last))):
        logger = wandb_logger(str(tmp_path), NAME, "quantbooth", start)
        logger._experiment = server
        log(logger, range(start, end))
    assert server.steps == given
    assert isinstance(logger, OneRun)
    assert [step for step, _ in logger._rows()] == list(range(8))


def test_a_record_that_is_torn_is_read_as_far_as_it_goes(offline: Path) -> None:
    logger = wandb_logger(str(offline), NAME, "quantbooth", 4)
    assert isinstance(logger, OneRun)
    logger.record.parent.mkdir(parents=True)
    logger.record.write_text('[1, {"tune/loss": 0.5}]\n[2, {"tu')
    assert logger._rows() == [(1, {"tune/loss": 0.5})]


@pytest.fixture
def answers() -> Iterator[dict[str, int]]:
    """A server that answers with the code in the mapping; its address is under `port`."""
    said = {"code": 200}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(said["code"])
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    said["port"] = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield said
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("code", "there"), [(200, True), (404, True), (401, True), (503, False)])
def test_a_server_is_there_when_it_answers(
    answers: dict[str, int], monkeypatch: pytest.MonkeyPatch, code: int, there: bool
) -> None:
    answers["code"] = code
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{answers['port']}/{code}")
    if there:
        require_server()
        return
    with pytest.raises(UserError, match=r"^the W&B server http://\S+ cannot be reached \(it answers 503\); set WANDB_"):
        require_server()


def test_a_server_that_never_answers_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(wandb_runs, "TIMEOUT", 1)
        began = time.monotonic()
        for _ in range(3):
            with pytest.raises(UserError, match="cannot be reached"):
                require_server()
        assert time.monotonic() - began < 2.5


def test_a_closed_port_names_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.delenv("WANDB_MODE")
    with pytest.raises(UserError) as caught:
        wandb_logger(str(tmp_path), NAME, "quantbooth", 0)
    assert str(caught.value) == (
        "the W&B server http://127.0.0.1:9 cannot be reached ([Errno 111] Connection refused); set WANDB_MODE=offline "
        "to log into a folder that wandb sync uploads later, or choose logger=csv"
    )
    assert wandb_runs.TIMEOUT < 30


def test_errors_of_wandb_are_mistakes() -> None:
    errors = pytest.importorskip("wandb.errors")
    for kind in (errors.CommError, errors.UsageError, errors.AuthenticationError):
        assert is_mistake(kind("no\n such key"))
        assert explain(kind("no\n such key")) == "W&B: no such key; set WANDB_MODE=offline, or choose logger=csv"


def test_closing_begins_no_run_that_never_began(offline: Path) -> None:
    logger = wandb_logger(str(offline), NAME, "quantbooth", 0)
    close([logger])
    assert logger._experiment is None
    assert not (offline / "wandb").exists()


SCORES = [(0, {"prompt/clip_t": 0.5}), (6, {"prompt/clip_t": 0.75})]


def scored_steps(offline: Path) -> list[list[int]]:
    """Return the steps that have a score, of each offline run."""
    read = [finished(run) for run in sorted((offline / "wandb").glob("offline-run-*"))]
    return [[row["trainer/global_step"] for row in history(one) if "prompt/clip_t" in row] for one in read]


def test_scores_reach_a_run_whose_tuning_another_process_has_finished(offline: Path) -> None:
    """Such as quantbooth-tune before quantbooth, or a chain that was ended between tuning and scores."""
    first = wandb_logger(str(offline), NAME, "quantbooth", 0)
    log(first, range(6))
    close([first])
    for _ in range(2):  # the second time they are there
        time.sleep(1.1)  # the folder of a run is named by the second
        logger = wandb_logger(str(offline), NAME, "quantbooth", 7)
        log_scores([logger], SCORES, [])
        close([logger])
    assert scored_steps(offline) == [[0, 6]]
    (run,) = (offline / "wandb").glob("offline-run-*")
    assert wandb_steps(run) == list(range(6))


def test_scores_are_given_again_where_their_logging_was_interrupted(offline: Path) -> None:
    for missing in (Path("no.png"), None):
        time.sleep(1.1)  # the folder of a run is named by the second
        logger = wandb_logger(str(offline), NAME, "quantbooth", 7)
        with suppress(FileNotFoundError):
            log_scores([logger], SCORES, [(missing, {"seed": 0})] if missing else [])
        close([logger])
    assert scored_steps(offline) == [[0, 6]]


def test_other_scores_of_a_run_that_was_written_offline_are_named(
    offline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for scores in (SCORES, [(6, {"prompt/clip_t": 0.25})]):
        logger = wandb_logger(str(offline), NAME, "quantbooth", 7)
        log_scores([logger], scores, [])
        close([logger])
    assert scored_steps(offline) == [[0, 6]]
    said = capsys.readouterr().err
    assert "rex-s2=a-w4-seed0-0123456789ab was written offline with other scores" in said and "logger=csv" in said


def test_a_run_that_another_process_has_open_is_left_to_it(offline: Path) -> None:
    first = wandb_logger(str(offline), NAME, "quantbooth", 0)
    log(first, range(6))
    other = wandb_logger(str(offline), NAME, "quantbooth", 7)
    log_scores([other], SCORES, [])
    assert other._experiment is None
    log_scores([first], SCORES, [])
    close([first])
    assert scored_steps(offline) == [[0, 6]]
