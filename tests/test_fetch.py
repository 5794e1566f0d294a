"""quantbooth-data: a folder appears whole or not at all, from a host of our own."""

import shutil
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from quantbooth.data.dreambooth import CLASSES, check
from quantbooth.errors import UserError
from quantbooth.fetch import fetch, main


class Quiet(SimpleHTTPRequestHandler):
    """A host that says nothing of what it is asked, and breaks off where the name says so."""

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_GET(self) -> None:
        if self.path != "/broken.zip":
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x" * 10)
        self.close_connection = True
        return None


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """The archive of a whole data set of small pictures."""
    for subject in CLASSES:
        place = tmp_path / "packed" / "dreambooth-main" / "dataset" / subject
        place.mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (20, 20), (number, 0, 0)).save(place / f"{number:02d}.jpg")
    return Path(shutil.make_archive(str(tmp_path / "served" / "main"), "zip", tmp_path / "packed"))


@pytest.fixture
def host(archive: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(archive.parent)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_data_set_is_fetched_whole_and_can_be_checked_later(host: str, tmp_path: Path) -> None:
    folder = fetch(tmp_path / "made", None, f"{host}/main.zip")
    assert check(folder) == (dict.fromkeys(CLASSES, 4), [])
    assert len((folder / "SHA256SUMS").read_text().splitlines()) == 120
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "packed", "served"]


@pytest.mark.parametrize(
    ("file", "told"),
    [
        (
            "none.zip",
            r"^cannot fetch http://.*/none\.zip: File not found; get that file by other",
        ),
        ("broken.zip", r"/broken\.zip broke off after 10 of 1000 bytes; try again$"),
    ],
)
def test_what_cannot_be_fetched_leaves_nothing(host: str, tmp_path: Path, file: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        fetch(tmp_path / "made", None, f"{host}/{file}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packed", "served"]


def test_a_host_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^cannot fetch http://127\.0\.0\.1:9/x: .*Connection refused; get that file"):
        fetch(tmp_path / "made", None, "http://127.0.0.1:9/x")
    assert list(tmp_path.iterdir()) == []


def command(*words: str) -> int:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(sys, "argv", ["quantbooth-data", *words])
        main()
    return int(str(stopped.value.code))


def test_an_archive_at_hand_needs_no_host_and_errors_are_one_line(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made"
    assert command("dreambooth", "--archive", str(archive), "--folder", str(made)) == 0
    assert "30 subjects, 120 photos in" in capsys.readouterr().out
    assert command("check", str(made)) == 0
    capsys.readouterr()
    (made / "dog" / "02.jpg").unlink()
    assert command("check", str(made)) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(
        "quantbooth: dog/02.jpg is listed in SHA256SUMS but not there; dog must have 4 to 6 photos"
    )
    assert errors.count("\n") == 1
    assert command("dreambooth", "--folder", str(made)) == 2
    assert "made is there already; remove it, or choose another --folder" in capsys.readouterr().err
    assert command("dreambooth", "--archive", str(tmp_path / "no.zip"), "--folder", str(tmp_path / "x")) == 2
    assert not (tmp_path / "x").exists()
