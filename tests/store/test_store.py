"""The store: an artifact is complete or absent, for all failures while it is written."""

import errno
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from artifacts import seal
from quantbooth.runtime.errors import UserError
from quantbooth.store.files import fingerprint
from quantbooth.store.manifest import FORMAT, open_artifact
from quantbooth.store.store import Draft, Store

IDENTITY = {"bits": 4, "search": {"kind": "mse", "norm": 2.4}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@contextmanager
def writing(store: Store, **identity: object) -> Iterator[Draft]:
    with store.writing("quantized_base", "toy-w4", IDENTITY | identity, {"base": "a" * 64}, {"bits": 4}) as draft:
        yield draft


def everything(store: Store) -> list[str]:
    return sorted(path.relative_to(store.root).as_posix() for path in store.root.rglob("*"))


def test_a_finished_artifact_is_found_again(store: Store) -> None:
    assert store.find("quantized_base", IDENTITY, "toy-w4") is None
    with writing(store) as draft:
        (draft.path / "layers").mkdir()
        (draft.path / "layers" / "codes.bin").write_bytes(b"123")
        draft.measured["seconds"] = 1.5
        assert store.find("quantized_base", IDENTITY, "toy-w4") is None
    found = store.find("quantized_base", dict(reversed(IDENTITY.items())), "toy-w4")
    assert found == draft.destination
    assert sorted(path.name for path in found.iterdir()) == ["config.yaml", "layers", "manifest.json"]
    assert (found / "layers" / "codes.bin").read_bytes() == b"123"
    assert yaml.safe_load((found / "config.yaml").read_text()) == {"bits": 4}


def test_the_folder_is_named_by_what_it_holds(store: Store) -> None:
    with writing(store) as draft:
        pass
    manifest = open_artifact(draft.destination, "quantized_base")
    full = fingerprint({"kind": "quantized_base", "format_version": FORMAT, "identity": IDENTITY})
    assert draft.destination == store.root / "quantized_base" / f"toy-w4-{full[:12]}"
    assert (manifest.fingerprint, draft.fingerprint) == (full, full)
    assert manifest.name == draft.destination.name
    assert manifest.parents == {"base": "a" * 64}


def test_an_artifact_is_found_whatever_its_label(store: Store) -> None:
    with writing(store) as draft:
        pass
    assert store.find("quantized_base", IDENTITY, "another-label") == draft.destination


def test_a_store_of_another_format_is_told_apart_in_one_line(store: Store) -> None:
    with writing(store) as draft:
        pass
    manifest = draft.destination / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format_version": 1}))
    elsewhere = Store(store.root.rename(store.root.with_name("older")))
    message = f"^{elsewhere.root} was written by another version of quantbooth .format 1, this one has {FORMAT}.; set"
    with pytest.raises(UserError, match=message):
        elsewhere.find("scores", IDENTITY, "any")
    with pytest.raises(UserError, match=message), writing(elsewhere):
        pass


def test_another_setting_is_another_artifact(store: Store) -> None:
    with writing(store) as first:
        pass
    with writing(store, bits=3) as second:
        pass
    assert first.destination != second.destination
    assert store.find("quantized_base", IDENTITY | {"bits": 2}, "toy-w4") is None


@pytest.mark.parametrize("error", [RuntimeError("half way"), KeyboardInterrupt()])
def test_a_failure_half_way_leaves_nothing(store: Store, error: BaseException) -> None:
    with pytest.raises(type(error)), writing(store) as draft:
        (draft.path / "codes.bin").write_bytes(b"123")
        raise error
    assert everything(store) == ["quantized_base"]


def test_numbers_that_cannot_be_recorded_leave_nothing(store: Store) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"), writing(store) as draft:
        draft.measured["loss"] = float("inf")
    assert everything(store) == ["quantized_base"]


def test_whoever_finishes_second_drops_its_own_quietly(store: Store) -> None:
    other = Store(store.root)
    with writing(store) as first, writing(other) as second:
        assert first.path != second.path
        (first.path / "who").write_text("first")
        (second.path / "who").write_text("second")
    assert (first.destination / "who").read_text() == "second"  # the inner block ended before the outer one
    assert len(list((store.root / "quantized_base").iterdir())) == 1


@pytest.mark.chain
def test_many_processes_make_one_artifact(store: Store) -> None:
    program = (
        "import sys; from pathlib import Path; from quantbooth.store.store import Store\n"
        "with Store(Path(sys.argv[1])).writing('scores', 'x', {'a': 1}, {}, {}) as draft:\n"
        "    [(draft.path / str(k)).write_text('y' * 999) for k in range(50)]\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program, store.root]) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    (made,) = (store.root / "scores").iterdir()
    assert store.find("scores", {"a": 1}, "x") == made
    assert len(list(made.iterdir())) == 52


def test_what_a_killed_process_left_is_invisible_and_removed(store: Store) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from quantbooth.store.store import Store\n"
        "with Store(Path(sys.argv[1])).writing('quantized_base', 'toy-w4', {'a': 1}, {}, {}) as draft:\n"
        "    (draft.path / 'codes.bin').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, store.root], check=False)
    assert done.returncode == -signal.SIGKILL
    left, lock = sorted((store.root / "quantized_base").iterdir(), key=lambda path: path.suffix, reverse=True)
    assert (left.suffix, lock.suffix) == (".partial", ".lock")
    assert store.find("quantized_base", {"a": 1}, "toy-w4") is None
    with writing(store) as draft:
        assert not left.exists()
    assert not lock.exists()
    assert [path.name for path in (store.root / "quantized_base").iterdir()] == [draft.destination.name]


def test_a_folder_taken_by_something_else_is_refused_and_kept(store: Store) -> None:
    _, place = store.place("quantized_base", IDENTITY, "toy-w4")
    place.mkdir(parents=True)
    (place / "holiday.png").touch()
    with pytest.raises(UserError, match=r"found a folder without manifest\.json"):
        store.find("quantized_base", IDENTITY, "toy-w4")
    with pytest.raises(UserError, match=r"found a folder without manifest\.json"), writing(store):
        pass
    assert everything(store) == [
        "quantized_base",
        f"quantized_base/{place.name}",
        f"quantized_base/{place.name}/holiday.png",
    ]


def test_an_artifact_under_another_ones_name_is_refused(store: Store) -> None:
    with writing(store) as draft:
        pass
    seal(draft.destination, fingerprint="b" * 64)
    with pytest.raises(
        UserError, match=f"must have the fingerprint {draft.fingerprint}, found {'b' * 64}; move it away"
    ):
        store.find("quantized_base", IDENTITY, "toy-w4")
    with pytest.raises(UserError, match="is taken by another quantized_base; move it away"), writing(store):
        pass


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_names_the_store_and_leaves_nothing(store: Store, error: Exception) -> None:
    with pytest.raises(OSError, match="No space left") as caught, writing(store) as draft:
        (draft.path / "codes.bin").write_bytes(b"123")
        raise error
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(store.root))
    assert everything(store) == ["quantized_base"]


@pytest.mark.parametrize("label", ["", "../up", "a/b", ".hidden", "x" * 101, "with space"])
def test_a_name_that_is_no_folder_name_is_refused(store: Store, label: str) -> None:
    with pytest.raises(UserError, match="a name must be 1 to 100 letters"):
        store.find("scores", {}, label)


def test_only_known_kinds_are_stored(store: Store) -> None:
    with pytest.raises(ValueError, match="the kind of an artifact must be one of .*, got 'cake'"):
        store.find("cake", {}, "x")


@pytest.mark.parametrize("position", [0, 1, -1])
@pytest.mark.parametrize("name", ["config.yaml", "layers/codes.bin"])
def test_a_flipped_byte_of_any_file_is_refused_by_the_artifacts_name(store: Store, name: str, position: int) -> None:
    with writing(store) as draft:
        (draft.path / "layers").mkdir()
        (draft.path / "layers" / "codes.bin").write_bytes(bytes(range(256)))
    file = draft.destination / name
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"^{draft.destination} is damaged: {name} has changed; quantbooth-verify"):
        store.find("quantized_base", IDENTITY, "toy-w4")


def test_missing_and_foreign_files_are_refused_but_not_those_of_a_file_manager(store: Store) -> None:
    with writing(store) as draft:
        (draft.path / "codes.bin").write_bytes(b"123")
    (draft.destination / ".DS_Store").touch()
    assert store.find("quantized_base", IDENTITY, "toy-w4") == draft.destination
    (draft.destination / "step-000001.safetensors").touch()
    with pytest.raises(UserError, match=r"step-000001\.safetensors is not part of it"):
        store.find("quantized_base", IDENTITY, "toy-w4")
    (draft.destination / "step-000001.safetensors").unlink()
    (draft.destination / "codes.bin").unlink()
    with pytest.raises(UserError, match=r"codes\.bin is missing"):
        store.find("quantized_base", IDENTITY, "toy-w4")
