"""Flags of the command line before Hydra reads them: each mistake is one line, not a page or an exit of Hydra's."""

import argparse
import contextlib
import io
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version

from hydra._internal.utils import get_args_parser

from quantbooth.runtime.errors import UserError
from quantbooth.runtime.given import require_data
from quantbooth.runtime.options import require_filled, require_kept

__all__ = ["checked_flags", "package_found"]

PACKAGE = re.compile(r"\w+(\.\w+|\[\d+\])*")


def checked_flags(words: Sequence[str], config_name: str) -> argparse.Namespace:
    """Return the flags among the words of a command line; answer --version.

    Raises:
        UserError: for unknown flags, values that they do not take, and words that Hydra would accept without an effect.
    """
    if "--version" in words:
        sys.stdout.write(f"quantbooth {version('quantbooth')}\n")
        sys.exit(0)
    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        flags, unread = parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise UserError(f"{error}; --hydra-help shows all flags") from error
    for word in unread:
        if word.startswith("-"):
            option = word.lstrip("-") if "=" in word else f"{word.lstrip('-')}=..."
            raise UserError(f"unknown flag '{word}'; options are written without dashes: {option}")
    if unread:
        raise UserError(f"'{unread[0]}' comes after a flag; write flags such as -m first, then the key=value options")
    if flags.hydra_help and flags.overrides:
        raise UserError(f"--hydra-help stands alone, got '{flags.overrides[0]}' too; leave out one of them")
    if flags.package is not None and not flags.cfg:
        raise UserError(f"--package={flags.package} has no effect without --cfg; write --cfg job -p {flags.package}")
    if flags.package is not None and not PACKAGE.fullmatch(flags.package):
        raise UserError(f"--package must be a group or an option such as tuner.steps, got {flags.package!r}")
    require_data(flags)
    require_kept(words, config_name)
    require_filled(words)
    return flags


@contextlib.contextmanager
def package_found(flags: argparse.Namespace) -> Iterator[None]:
    """Let --cfg of a package that is not there, or has no value, end as any mistake; Hydra prints, and exits with 1.

    Raises:
        UserError: naming the package.
    """
    if flags.package is None:
        yield
        return
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            yield
    except SystemExit as stop:
        if stop.code == 1:
            raise UserError(
                f"--package={flags.package} is no group and no option with a value; --cfg {flags.cfg} alone shows all"
            ) from stop
        raise
    sys.stderr.write(said.getvalue())
