"""The model card beside an exported model: what it is, made from what, how to use it, what to know before."""

from importlib.metadata import version
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

__all__ = ["model_card"]


def model_card(**facts: Any) -> str:
    """The card as Markdown with a head that model hubs read."""
    environment = Environment(
        loader=PackageLoader("quantbooth.reporting", "templates"),
        autoescape=False,  # Markdown, for people
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("card.md.j2").render(version=version("quantbooth"), **facts)
