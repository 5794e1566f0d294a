"""A grid of intervals in one word of a sweep, before Hydra reads it, whose own sweeps are of numbers and choices.

strategy.interval=intervals(0,1000,200)        becomes    strategy.interval=[0,200],[200,400],...,[800,1000]
strategy.interval=intervals(0,1000,400,200)    overlapping ones: 400 wide, each 200 after the one before
"""

import re
from collections.abc import Sequence

from quantbooth.runtime.errors import UserError

__all__ = ["with_grids"]

GRID = re.compile(r"intervals\(([^()]*)\)")
FORM = "intervals(START,STOP,WIDTH) or intervals(START,STOP,WIDTH,STEP)"
MOST = 1000
"""Jobs that nobody means to run."""


def with_grids(words: Sequence[str], sweeps: bool) -> list[str]:
    """Return the words of a command line, grids of intervals as the list of their intervals.

    Raises:
        UserError: for a grid outside of a sweep, in other words than whole numbers, or that does not end at its stop.
    """
    return [_expanded(word, sweeps) for word in words]


def _expanded(word: str, sweeps: bool) -> str:
    option, given, value = word.partition("=")
    if not given or not re.match(r"\s*intervals\b", value.removeprefix("[")):
        return word
    match = GRID.fullmatch(value.strip())
    numbers = [part.strip() for part in match[1].split(",")] if match else []
    if match is None or len(numbers) not in (3, 4) or not all(re.fullmatch(r"\d{1,9}", part) for part in numbers):
        raise UserError(f"{word} must be {option}={FORM} of whole numbers")
    start, stop, width, step = (*map(int, numbers), int(numbers[2]))[:4]
    if not (start < stop and 0 < width <= stop - start and step):
        raise UserError(f"{word} must have START < STOP, and a WIDTH and STEP from 1 that fit in between")
    if left := (stop - start - width) % step:
        raise UserError(f"{word} leaves [{stop - left},{stop}] over; choose a WIDTH or STEP that ends at {stop}")
    starts = range(start, stop - width + 1, step)
    if len(starts) > MOST:
        raise UserError(f"{word} makes {len(starts)} jobs, at most {MOST}; choose a larger WIDTH or STEP")
    if not sweeps:
        raise UserError(f"{word} makes {len(starts)} jobs, which a sweep runs: write -m before the options")
    return f"{option}={','.join(f'[{each},{each + width}]' for each in starts)}"
