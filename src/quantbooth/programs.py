"""The commands that installation puts on the path: python -m quantbooth.programs NAME is the same as quantbooth-NAME.

A command's code is imported when its options are valid: torch, Lightning and diffusers take seconds to import, for
which help and a refused option do not wait.
"""

import sys

from quantbooth.runtime.cli import Command

__all__ = ["PROGRAMS", "damage"]

pipeline = Command("quantbooth.commands.pipeline", "quantbooth")
plan = Command("quantbooth.commands.plan", "quantbooth")
calibrate = Command("quantbooth.commands.calibrate", "quantbooth")
tune = Command("quantbooth.commands.tune", "quantbooth")
sample = Command("quantbooth.commands.sample", "quantbooth")
evaluate = Command("quantbooth.commands.evaluate", "quantbooth")
report = Command("quantbooth.commands.report", "quantbooth")
export = Command("quantbooth.commands.export", "quantbooth")
degradation = Command("quantbooth.commands.degradation", "degradation")
probe = Command("quantbooth.commands.probe", "probe")
data = Command("quantbooth.commands.data", "data", first_word="action")

PROGRAMS = {name: value for name, value in vars().items() if isinstance(value, Command)}


def damage() -> None:
    """Answer the former name of a command."""
    sys.stderr.write("quantbooth: the command quantbooth-damage has another name: quantbooth-degradation\n")
    sys.exit(2)


if __name__ == "__main__":
    named = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if named not in PROGRAMS:
        sys.stderr.write(f"quantbooth: there is no command {named!r}; known are {', '.join(PROGRAMS)}\n")
        sys.exit(2)
    PROGRAMS[named]()
