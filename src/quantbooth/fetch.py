"""quantbooth-data: the photos of the DreamBooth data set, fetched and checked.

quantbooth-data dreambooth                          # into outputs/data/dreambooth, where subject=dog looks for them
quantbooth-data dreambooth --archive main.zip       # from the repository's archive, fetched by other means
quantbooth-data check DIR                           # a folder that is there already
"""

import sys
import urllib.error
import urllib.request
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

from quantbooth.artifacts.disk import whole_folder
from quantbooth.data.dreambooth import CLASSES, URL, check, unpack, write_sums
from quantbooth.errors import UserError

__all__ = ["download", "fetch", "main"]

FOLDER = Path("outputs/data/dreambooth")
PIECE = 2**16
TIMEOUT = 30
"""Seconds without a byte after which a download is given up."""


def fetch(folder: Path, archive: Path | None, url: str = URL) -> Path:
    """Make the folder of all subjects; it appears when all of it is there and right.

    Raises:
        UserError: when the place is taken, the host cannot be reached, or what came is not the data set.
    """
    with whole_folder(folder, "--folder") as draft, TemporaryDirectory(dir=folder.parent) as place:
        source = archive or download(url, Path(place) / "archive.zip")
        if not source.is_file():
            raise UserError(f"--archive must be a zip file, found none at {source}")
        unpack(source, draft)
        counts, wrong = check(draft)
        wrong += [f"{subject} is missing" for subject in CLASSES if subject not in counts]
        if wrong:
            raise UserError(f"{source.name} is not the whole data set: {'; '.join(wrong)}")
        write_sums(draft)
    return folder


def download(url: str, file: Path) -> Path:
    """Fetch a file with a bar.

    Raises:
        UserError: when the host cannot be reached or breaks off.
    """
    bars = ("fetching photos", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, file.open("wb") as opened, Progress(*bars) as bar:
            length = answer.headers.get("Content-Length")
            task = bar.add_task("", total=int(length) if length else None)
            while piece := answer.read(PIECE):
                opened.write(piece)
                bar.advance(task, len(piece))
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise UserError(
            f"cannot fetch {url}: {getattr(error, 'reason', error)}; get that file by other means and give it as "
            "--archive FILE"
        ) from error
    if length and file.stat().st_size != int(length):
        raise UserError(f"{url} broke off after {file.stat().st_size} of {length} bytes; try again")
    return file


def main() -> None:
    """The program: exits with 0, or with 2 after one line on what is wrong."""
    try:
        sys.exit(_run(_parsed(sys.argv[1:])))
    except UserError as error:
        sys.stderr.write(f"quantbooth: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("quantbooth: interrupted; nothing half-written is left\n")
        sys.exit(130)


def _run(options: Namespace) -> int:
    folder = fetch(options.folder, options.archive) if options.command == "dreambooth" else options.folder
    counts, wrong = check(folder)
    missing = [subject for subject in CLASSES if subject not in counts]
    found = f"{len(counts)} subjects, {sum(counts.values())} photos in {folder}"
    sys.stdout.write(f"{found}{'; not there: ' + ', '.join(missing) if missing else ''}\n")
    sys.stdout.write(f"use them: quantbooth subject={next(iter(counts))} paths.dreambooth={folder}\n")
    if wrong:
        raise UserError("; ".join(wrong))
    return 0


def _parsed(arguments: Sequence[str]) -> Namespace:
    parser = ArgumentParser("quantbooth-data", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    made = commands.add_parser("dreambooth", help=f"fetch the data set from {URL}")
    made.add_argument("--folder", type=Path, default=FOLDER, help=f"where it goes; {FOLDER} when not given")
    made.add_argument("--archive", type=Path, help="the zip archive of the repository, where it is there already")
    commands.add_parser("check", help="check a folder").add_argument("folder", type=Path)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
