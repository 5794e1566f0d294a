"""The model hub is asked once whether it answers: its client repeats each request for 23 seconds before it gives up."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants, get_session

from quantbooth.diffusion.weights import first_line

__all__ = ["from_cache_if_silent"]

SECONDS = 5


@contextmanager
def from_cache_if_silent() -> Iterator[str | None]:
    """Let models come from the hub's cache alone where the hub does not answer, as HF_HUB_OFFLINE=1 does.

    Yields:
        why it does not answer; None if it does.
    """
    before, reason = constants.HF_HUB_OFFLINE, _silence()
    constants.HF_HUB_OFFLINE = before or reason is not None
    try:
        yield reason
    finally:
        constants.HF_HUB_OFFLINE = before


def _silence() -> str | None:
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE=1 is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception as error:  # of the HTTP client, which is another one in each release of the hub's
        return f"{constants.ENDPOINT} does not answer ({first_line(error)})"
    return None
