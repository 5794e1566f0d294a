"""How large a report's page is and how fast it opens: python -m experiments.page.measure [SIDE] [FOLDER]

A made-up sweep of 8 subjects x 4 strategies x 25 prompts (4 seeds, 3 steps), its pictures SIDE pixels wide (64), is
reported into FOLDER (a temporary one) and opened five times in headless Chromium.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from experiments.page.browser import Browser
from experiments.page.sweep import sweep
from quantbooth.reporting.page import About, write_report
from quantbooth.reporting.study import Study

__all__ = ["main"]

TIMES = 5


def main(side: int, folder: Path) -> None:
    """Print size, time to write and times to open."""
    results = sweep(folder / "sweep", side=side)
    begun = time.perf_counter()
    page = write_report(Study(tuple(results)), folder / "report", About(["python -m experiments.page.measure"]))[0]
    written = time.perf_counter() - begun
    seconds = []
    for _ in range(TIMES):
        with Browser() as browser:
            seconds.append(browser.open(page))
    told = ", ".join(f"{second:.2f}" for second in seconds)
    print(f"{page}: {page.stat().st_size / 1e6:.2f} MB, written in {written:.0f} s")  # noqa: T201
    print(f"opens in {statistics.median(seconds):.2f} s (median of {told})")  # noqa: T201


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 64, Path(sys.argv[2] if len(sys.argv) > 2 else temporary))
