"""Hostile files by kind, and what becomes of them: `cases()` yields names, makers and calls, `outcome` classifies one.

python -m experiments.reliability.hostile --result hostile.json
"""

import argparse
import contextlib
import io
import json
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from experiments.reliability.record import write_counts
from quantbooth.calibration.calibration_set import CalibrationSet
from quantbooth.data.photos import photo_subject
from quantbooth.degradation.files import read_reference
from quantbooth.evaluation.files import Record, read_record, read_rows
from quantbooth.probe.files import ProbeRecord
from quantbooth.reporting.embed import embedded
from quantbooth.runtime.errors import UserError
from quantbooth.sampling.image_set import Request, read_images, read_requests
from quantbooth.store.documents import read_as, read_options, read_tensors
from quantbooth.store.manifest import FORMAT, Manifest, open_artifact

USED, REFUSED, SILENT, TRACEBACK, HANG, PROGRAM = "used", "refused", "silent", "traceback", "hang", "program started"
SECONDS = 20
STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork")
_started: list[str] = []
_listens: list[bool] = []


@dataclass(frozen=True)
class Case:
    """One hostile file: how it is made in an empty folder, the call that reads it, and whether it may be used."""

    name: str
    make: Callable[[Path], object]
    call: Callable[[Path], object]
    usable: bool = False


def outcome(case: Case, folder: Path) -> str:
    """Make a file, read it, and return what became of it; a one-line refusal must name a file in the folder."""
    case.make(folder)
    _listen()
    _started.clear()
    signal.signal(signal.SIGALRM, _too_long)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            case.call(folder)
        found = USED if case.usable else SILENT
    except UserError as error:
        found = REFUSED if "\n" not in str(error) and len(str(error)) < 2000 else TRACEBACK
    except TimeoutError:
        found = HANG
    except BaseException:
        found = TRACEBACK
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return PROGRAM if _started else found


def _too_long(*_: object) -> None:
    raise TimeoutError


def _listen() -> None:
    if not _listens:
        _listens.append(True)
        sys.addaudithook(lambda event, _: _started.append(event) if event in STARTS else None)


def picture(number: int = 0) -> Image.Image:
    return Image.new("RGB", (32, 32), (50 * number, 90, 0))


def whole(kind: str, **options: Any) -> bytes:
    made = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(made, kind, **options)
    return made.getvalue()


def _bytes(content: bytes) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(content)


def _link(target: str) -> Callable[[Path], object]:
    def make(file: Path) -> None:
        picture(4).save(file.parents[1] / f"{file.parent.name}-secret.png")
        file.symlink_to(target.format(secret=f"../{file.parent.name}-secret.png"))

    return make


def _bmp(side: int) -> bytes:
    size = side.to_bytes(4, "little")
    return b"BM" + bytes(8) + b"\x36\0\0\0\x28\0\0\0" + size + size + b"\1\0\x18\0" + bytes(24)


PICTURES: dict[str, Callable[[Path], object]] = {
    **{f"cut {kind}": _bytes(whole(kind)[: len(whole(kind)) // 2]) for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF")},
    **{f"head of {kind}": _bytes(whole(kind)[:12]) for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")},
    **{
        f"a {kind}": _bytes(whole(kind))
        for kind in ("EPS", "PDF", "PPM", "TGA", "ICO", "PCX", "SGI", "DDS", "JPEG2000", "IM")
    },
    **{f"bomb of {side}": _bytes(_bmp(side)) for side in (14_000, 20_000, 2**31 - 1)},
    "empty": _bytes(b""),
    "text": _bytes(b"no picture"),
    "html": _bytes(b"<script>alert(1)</script>"),
    "svg": _bytes(b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'),
    "PostScript": _bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 90 90\n%%EndComments\nshowpage\n"),
    "pipe": lambda file: os.mkfifo(file),
    "folder": lambda file: file.mkdir(),
    "link to /dev/zero": _link("/dev/zero"),
    "link to nowhere": _link("nowhere.png"),
    "link to itself": _link("x.png"),
    "link out of the folder": _link("{secret}"),
}
OPTIONAL = ("asked", "own")
NUMBERS_IN = {"nan": "NaN", "infinity": "Infinity", "1e999": "1e999"}


def _photo_case(name: str, make: Callable[[Path], object], file: str) -> Case:
    def made(folder: Path) -> None:
        picture(1).save(folder / "0.png")
        make(folder / file)

    return Case(f"photo: {name} as {file}", made, lambda folder: photo_subject(str(folder), "dog", "sks", True, 32))


def _mask_case(name: str, make: Callable[[Path], object]) -> Case:
    def made(folder: Path) -> None:
        picture(1).save(folder / "x.jpg")
        make(folder / "x_mask.png")

    return Case(f"mask: {name}", made, lambda folder: photo_subject(str(folder), "dog", "sks", True, 32))


REQUEST = asdict(Request("a.png", "t", "t", "t", "plain", 0))
RECORD = asdict(Record("s1", "rex", "w4", 0, 1, "toy", "s", "p", {"seconds": 1.0}, "image_set/rex", "rex-s1"))
PROBE = asdict(ProbeRecord("toy", "w4", 1000, 2, "q", 0, "ddim", "s", {"content": [0, 1000]}))
MANIFEST = asdict(Manifest("scores", FORMAT, "rex", "f" * 64, {}, {}, "0.1", {}, {}))
SET = {"prompts": ["a"], "timesteps": [1.0], "shard": 1}
DOCUMENTS: dict[str, tuple[str, Any, Callable[[Path], object]]] = {
    "list of pictures": ("images.json", [REQUEST], read_requests),
    "record of scores": ("record.json", RECORD, read_record),
    "record of a probe": ("record.json", PROBE, lambda folder: read_as(ProbeRecord, folder / "record.json")),
    "manifest": ("manifest.json", MANIFEST, lambda folder: open_artifact(folder, "scores")),
    "calibration set": ("set.json", SET, CalibrationSet),
}


def _spoiled(values: Any) -> Iterator[tuple[str, str]]:
    """Yield texts of a document with one fault each."""
    inner = values[0] if isinstance(values, list) else values

    def text(changed: Any) -> str:
        return json.dumps([changed] if isinstance(values, list) else changed)

    yield "unknown key", text({**inner, "unknown": 1})
    for key, value in inner.items():
        if key not in OPTIONAL:
            yield f"without {key}", text({other: v for other, v in inner.items() if other != key})
        yield f"{key} of another type", text({**inner, key: [1] if isinstance(value, str | int | dict) else "x"})
    first = next(iter(inner))
    yield "a key twice", text(inner).replace(f'"{first}"', f'"{first}": {json.dumps(inner[first])}, "{first}"', 1)
    for name, number in NUMBERS_IN.items():
        yield name, text({**inner, first: "@"}).replace('"@"', number)
    deep = "[" * 2000 + "]" * 2000
    yield "deep", text({**inner, first: "@"}).replace('"@"', deep)
    yield "half a character", text({**inner, first: "@"}).replace('"@"', r'"\ud800"')
    yield from (("cut", text(inner)[:-3]), ("empty", ""), ("null", "null"), ("a number", "1" * 5000), ("NUL", "\0"))


def _document_cases() -> Iterator[Case]:
    for kind, (file, values, call) in DOCUMENTS.items():
        for fault, text in _spoiled(values):
            yield Case(f"{kind}: {fault}", lambda folder, f=file, t=text: (folder / f).write_text(t), call)  # type: ignore[misc]
    for name in ("../x.png", "/etc/passwd", "a\\..\\b.png", "C:x.png", "..", "a/b.png", "a\0b.png", "a\nb.png", ""):
        listed = json.dumps([REQUEST | {"file": name}])
        yield Case(f"list of pictures: {name!r}", lambda d, t=listed: (d / "images.json").write_text(t), read_requests)  # type: ignore[misc]
        told = json.dumps(RECORD | {"images": f"image_set/{name}"})
        if name != "a/b.png":
            yield Case(f"record: {name!r}", lambda d, t=told: (d / "record.json").write_text(t), read_record)  # type: ignore[misc]


OPTIONS = {
    "variable": "a: ${oc.env:HOME}",
    "decoder": "a: ${oc.decode:x}",
    "node": "a: ${b}\nb: 1",
    "nested": "a: [{b: 'x ${oc.env:HOME}'}]",
    "code": "a: !!python/object/apply:os.system ['true']",
    "laughs": "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]",
    "a key twice": "a: 1\na: 2",
    "list": "- 1",
    "deep": "[" * 5000,
    "binary": "\0\1",
}
HEADERS = {
    "endless": b"\xff" * 8,
    "longer than the file": (2**40).to_bytes(8, "little"),
    "no JSON": b"\2\0\0\0\0\0\0\0{]",
    "empty": b"",
    "short": b"\1\0",
    "range": b'\x3b\0\0\0\0\0\0\0{"x":{"dtype":"F32","shape":[4],"data_offsets":[0,999999]}} ',
}


def _table(**columns: Any) -> pd.DataFrame:
    about = {"subject": "rex", "step": 1, "prompt": "p", "kind": "plain", "noise_seed": 0, "file": "a.png"}
    made = {key: [value] for key, value in (about | {"metric": "clip_t", "value": 0.5, "measured_with": "m"}).items()}
    return pd.DataFrame({key: value for key, value in (made | columns).items() if value is not None})


TABLES = {
    "infinity": _table(value=[float("inf")]),
    "texts for numbers": _table(value=["x"]),
    "numbers for texts": _table(prompt=[1]),
    "unknown column": _table(more=[1]),
    "no metric": _table(metric=None),
    "no file": _table(file=None),
    "a name out of the folder": _table(file=["../x.png"]),
    "twice": pd.concat([_table(), _table()]),
    "a missing text": _table(kind=[None]),
}


def cases() -> Iterator[Case]:
    """Yield every hostile case."""
    for name, make in PICTURES.items():
        yield from (_photo_case(name, make, file) for file in ("x.png", "x.jpg"))
        yield _mask_case(name, make)
        if not name.startswith("link to itself"):
            yield Case(f"image set: {name}", lambda d, m=make: m(d / "x.png"), lambda d: read_images([d / "x.png"]))  # type: ignore[misc]
        yield Case(f"report: {name}", lambda d, m=make: m(d / "x.png"), lambda d: embedded(d / "x.png"))  # type: ignore[misc]
    yield from _document_cases()
    for name, text in OPTIONS.items():
        yield Case(
            f"options: {name}",
            lambda d, t=text: (d / "config.yaml").write_text(t),  # type: ignore[misc]
            lambda d: read_options(d / "config.yaml"),
        )
    for name, head in HEADERS.items():
        yield Case(f"tensors: {name}", lambda d, h=head: (d / "x").write_bytes(h), lambda d: read_tensors(d / "x"))  # type: ignore[misc]
        yield Case(f"reference: {name}", lambda d, h=head: (d / "reference.safetensors").write_bytes(h), read_reference)  # type: ignore[misc]
    for name, table in TABLES.items():
        yield Case(f"rows: {name}", lambda d, t=table: t.to_parquet(d / "rows.parquet"), read_rows)  # type: ignore[misc]


def main() -> int:
    """Read every hostile file, and write the counts; return 1 where one was not refused."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--result", type=Path)
    options = parser.parse_args()
    found = {}
    for number, case in enumerate(cases()):
        with tempfile.TemporaryDirectory() as place:
            (folder := Path(place) / f"given{number}").mkdir()
            found[case.name] = outcome(case, folder)
    wrong = {name: ended for name, ended in found.items() if ended != REFUSED}
    counts = {"cases": len(found), "ended": dict(Counter(found.values())), "wrong": wrong}
    write_counts(options.result, counts)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
