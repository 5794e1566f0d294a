"""The words of a command line before Hydra reads them: free text needs no quotes of Hydra's own inside the shell's.

    prompt=a {} on the beach    becomes    prompt="a {} on the beach"

Only values that Hydra cannot read, of options that take text, are quoted; a comma before a space is part of a text.
"""

import re
from collections.abc import Mapping, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from quantbooth.kinds import Field
from quantbooth.runtime.grids import with_grids
from quantbooth.schema import COMMANDS, FIELDS

__all__ = ["quoted"]

WORD = re.compile(r"(\+{0,2}([\w.]+))=(.+)", re.DOTALL)
SAMPLE = "a (text)"
QUOTED = r'"\1"'
DIGITS = re.compile(r"(?<![^,])(\d[0-9a-f]*)(?=,|$)")
"""A name by digits, which Hydra would read as a number: 8597, 85e3."""
SWEEPS = ("-m", "--multirun", "experiment=", "search=", "hydra.mode=")
"""Words after which a comma divides the values of a sweep."""


def quoted(words: Sequence[str], config_name: str) -> list[str]:
    """Return the words of a command line, texts that Hydra cannot read in quotes, and grids as their intervals."""
    fields, sweeps = COMMANDS.get(config_name, FIELDS), any(word.startswith(SWEEPS) for word in words)
    return [_quoted(word, fields, sweeps) for word in with_grids(words, sweeps)]


def _quoted(word: str, fields: Mapping[str, Mapping[str, Field]], sweeps: bool) -> str:
    match = WORD.fullmatch(word)
    if match is None:
        return word
    start, option, value = match.groups()
    group, _, key = option.rpartition(".")
    field = fields.get(group, {}).get(key)
    if option == "scale_sets":
        return f"{start}={DIGITS.sub(QUOTED, value)}"
    if field is None or not field.kind.holds(SAMPLE) or value.startswith(("[", "'", '"')):
        return word
    try:
        is_sweep = OverridesParser.create().parse_override(word).is_choice_sweep()
    except HydraException:
        is_text = True
    else:
        is_text = is_sweep and not sweeps and re.search(r",(?! )", value) is None
    if not is_text:
        return word
    return f'{start}="{_escaped(value)}"'


def _escaped(text: str) -> str:
    """Escape quotes, and the backslashes before a quote and at the end, as Hydra's quoted values want it."""
    return re.sub(r'(\\*)("|$)', lambda found: 2 * found[1] + (r"\"" if found[2] else ""), text)
