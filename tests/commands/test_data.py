"""quantbooth-data against a server of our own: whole files or none, only what is missing, one line for each mistake."""

import hashlib
import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from quantbooth.commands import data
from quantbooth.data.dreambooth import LISTING, NAMES
from quantbooth.runtime.config import conf_dir
from quantbooth.runtime.errors import UserError

pytestmark = pytest.mark.chain

Run = Callable[..., None]


class Quiet(SimpleHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012  # shared by all requests, as is meant

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def jpeg(shade: int) -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (40, 40), (shade % 4 * 60, shade, 0)).save(made, "JPEG")
    return made.getvalue()


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Four photos of each of the 30 and a text, with the list that git would give, and other things in it."""
    top = tmp_path / "published"
    files = {f"{name}/0{n}.jpg": jpeg(7 * place + n) for place, name in enumerate(NAMES) for n in range(4)}
    files["references_and_licenses.txt"] = b"by whom the photos are"
    for name, content in files.items():
        (top / "dataset" / name).parent.mkdir(parents=True, exist_ok=True)
        (top / "dataset" / name).write_bytes(content)
    tree = [{"path": f"dataset/{name}", "type": "blob", "sha": digest(content)} for name, content in files.items()]
    others = ("README.md", "dataset", "dataset/dog", "docs/teaser.jpg", "dataset/../../evil.jpg", "/dataset/dog/9.jpg")
    tree += [{"path": path, "type": "tree", "sha": "0" * 40} for path in others]
    (top / "listing").write_text(json.dumps({"sha": "0" * 40, "tree": tree, "truncated": False}))
    return top


def digest(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


@pytest.fixture
def address(published: Path) -> Iterator[str]:
    Quiet.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(published)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def run(tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def act(action: str, *overrides: str) -> None:
        given = [f"source.listing={address}/listing", f"source.files={address}", f"paths.dreambooth={tmp_path}/here"]
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            cfg = compose("data", [f"action={action}", *given, *overrides])
        data.job(cfg)

    return act


def test_everything_is_fetched_as_it_was_published_and_nothing_else(
    run: Run, tmp_path: Path, published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("dreambooth")
    here, there = tmp_path / "here", published / "dataset"
    files = sorted(file.relative_to(there) for file in there.rglob("*") if file.is_file())
    assert len(files) == 30 * 4 + 1
    assert all((here / file).read_bytes() == (there / file).read_bytes() for file in files)
    assert sorted(file.relative_to(here) for file in here.rglob("*") if file.is_file()) == sorted(
        [*files, Path(LISTING)]
    )
    assert not (tmp_path / "evil.jpg").exists()
    said = capsys.readouterr().out.splitlines()
    assert said[-2:] == [
        "downloaded 121 files, all as published",
        f"{here}: 30 of 30 subjects, 120 photos, every file as published",
    ]


def test_a_second_run_fetches_what_is_missing_only(run: Run, tmp_path: Path) -> None:
    run("dreambooth")
    (tmp_path / "here" / "vase" / "02.jpg").unlink()
    Quiet.asked.clear()
    run("dreambooth")
    assert Quiet.asked == ["/listing", "/dataset/vase/02.jpg"]


def test_a_stopped_run_leaves_whole_files_and_goes_on(run: Run, tmp_path: Path, published: Path) -> None:
    lost = published / "dataset" / "dog" / "01.jpg"
    content = lost.read_bytes()
    lost.unlink()
    with pytest.raises(
        UserError, match=r"^could not fetch from 127\.0\.0\.1:\d+ \(it answers 404 File not found\); try "
    ):
        run("dreambooth")
    whole = [file for file in (tmp_path / "here").rglob("*") if file.is_file()]
    assert 0 < len(whole) < 121
    assert all(
        file.read_bytes() == (published / "dataset" / file.relative_to(tmp_path / "here")).read_bytes()
        for file in whole
    )
    lost.write_bytes(content)
    Quiet.asked.clear()
    run("dreambooth")
    assert len(Quiet.asked) == 1 + 121 - len(whole)


def test_a_file_that_came_as_another_is_not_kept(run: Run, tmp_path: Path, published: Path) -> None:
    (published / "dataset" / "dog" / "01.jpg").write_bytes(jpeg(255)[:-9])
    with pytest.raises(UserError, match=r"/dataset/dog/01\.jpg has another digest than in http\S+/listing; "):
        run("dreambooth")
    assert not (tmp_path / "here" / "dog" / "01.jpg").exists()


def test_a_persons_own_file_is_never_written_over(run: Run, tmp_path: Path) -> None:
    own = tmp_path / "here" / "dog" / "01.jpg"
    own.parent.mkdir(parents=True)
    own.write_bytes(jpeg(255))
    with pytest.raises(
        UserError, match=rf"^{own} has another digest than in the published list; move it away, or give another"
    ):
        run("dreambooth")
    assert own.read_bytes() == jpeg(255)


def test_a_damaged_list_is_named_and_the_advice_mends_it(run: Run, tmp_path: Path) -> None:
    run("dreambooth")
    file = tmp_path / "here" / "listing.json"
    whole = file.read_text()
    for digest, named in (("0" * 40, str(file)), ("0", "dog/01.jpg")):
        file.write_text(json.dumps(json.loads(whole) | {"dog/01.jpg": digest}))
        with pytest.raises(UserError, match=rf"{named}.*run quantbooth-data dreambooth with this folder"):
            run("check")
        run("dreambooth")
        assert file.read_text() == whole
        run("check")


def test_a_published_list_without_digests_is_refused(run: Run, published: Path) -> None:
    (published / "listing").write_text('{"tree": [{"path": "dataset/dog/00.jpg", "sha": "0"}]}')
    with pytest.raises(UserError, match=r"/listing must give git's digest of dog/00\.jpg, .*found '0'"):
        run("dreambooth")


def test_what_is_no_list_is_refused(run: Run, published: Path) -> None:
    for text in ("<html>", "[]", '{"tree": [{"sha": "0"}]}'):
        (published / "listing").write_text(text)
        with pytest.raises(UserError, match=r"/listing must be a list of files as GitHub gives it, got b'"):
            run("dreambooth")
    whole = '{"tree": [{"path": "dataset/dog/00.jpg", "sha": "0"}], "truncated": true}'
    for text, count in (('{"tree": []}', 0), (whole, 1)):
        (published / "listing").write_text(text)
        with pytest.raises(
            UserError, match=rf"/listing must list all photos below dataset/, it lists {count} of them$"
        ):
            run("dreambooth")


def test_looking_finds_what_was_lost_or_changed_after_fetching(run: Run, tmp_path: Path) -> None:
    run("dreambooth")
    Quiet.asked.clear()
    photo = tmp_path / "here" / "clock" / "02.jpg"
    photo.write_bytes(jpeg(1))
    with pytest.raises(
        UserError, match=rf"^{photo} has another digest than in {tmp_path}/here/listing.json; run quantbooth-data "
    ):
        run("check")
    (tmp_path / "here" / "references_and_licenses.txt").unlink()
    photo.write_bytes(jpeg(7 * NAMES.index("clock") + 2))
    with pytest.raises(UserError, match=r"references_and_licenses\.txt is missing; run quantbooth-data dreambooth"):
        run("check")
    assert Quiet.asked == []


def test_a_folder_from_elsewhere_is_looked_at_without_a_list(
    run: Run, published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in NAMES[2:]:
        (published / "dataset" / name).rename(published / name)
    run("check", f"folder={published}/dataset")
    assert capsys.readouterr().out == (
        f"{published}/dataset: 2 of 30 subjects, 8 photos, readable, in the published number; "
        f"not compared with the published files; without {', '.join(NAMES[2:])}\n"
    )


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "quantbooth.programs", "data", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_command_takes_its_action_first_and_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
    done = command("dreambooth", f"source.listing=http://{nobody}/listing", "folder=here")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"quantbooth: could not fetch from {nobody} (")
    assert done.stderr.endswith("elsewhere and set paths.dreambooth to its folder dataset\n")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("action", "said"), [(None, ""), ("dreamboth", ", got 'dreamboth'")])
def test_an_action_that_is_none_is_refused_with_those_there_are(run: Run, action: str | None, said: str) -> None:
    with pytest.raises(UserError, match=rf"^action must be dreambooth or check{said}: quantbooth-data dreambooth"):
        run("null" if action is None else action)


def test_a_photo_that_was_not_published_is_named(run: Run, tmp_path: Path) -> None:
    run("dreambooth")
    added = tmp_path / "here" / "clock" / "mine.jpg"
    added.write_bytes(jpeg(250))
    with pytest.raises(UserError, match=rf"^{added} is not in the published list"):
        run("check")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda place: os.symlink("nowhere", place)])
@pytest.mark.parametrize("name", ["clock/02.jpg", LISTING])
def test_what_is_no_file_is_named_and_not_waited_for(
    run: Run, tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    run("dreambooth")
    place = tmp_path / "here" / name
    place.unlink()
    make(place)
    with pytest.raises(UserError, match=str(place)):
        run("check")
    if name != LISTING:
        with pytest.raises(UserError, match=str(place)):
            run("dreambooth")


@pytest.mark.parametrize("typed", [("check", "action=dreambooth"), ("check", "source.version=other")])
def test_what_a_check_does_not_do_is_refused(typed: tuple[str, ...]) -> None:
    done = command(*typed)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert typed[1] in done.stderr
