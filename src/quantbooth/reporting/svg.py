"""From a matplotlib figure to an SVG string: real text, readable when the viewer is dark, safe to put into a page."""

import io
import re

from matplotlib.figure import Figure

from quantbooth.reporting.colours import Tone

__all__ = ["inlined", "svg"]

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"
HEADER = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<!--.*?-->", re.DOTALL)
NAMESPACE = re.compile(r'\s+xmlns(?::xlink)?="[^"]*"')
SIZE = re.compile(r'(<svg[^>]*?)\s+width="[^"]*"', re.DOTALL)
HEIGHT = re.compile(r'(<svg[^>]*?)\s+height="[^"]*"', re.DOTALL)


def svg(figure: Figure, name: str, title: str, description: str, tones: tuple[Tone, ...]) -> str:
    """The figure, to be drawn in the light colour of each tone; a stylesheet inside swaps them on dark ground.

    `name` makes ids unique, so that several figures may stand in one page. The same figure gives the same string if
    drawn under the rc parameters `svg.hashsalt` and `svg.fonttype: none`.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = HEADER.sub("", buffer.getvalue()).strip()
    text = HEIGHT.sub(r"\1", SIZE.sub(r"\1", text))
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'((?:xlink:)?href="|url\()#', rf"\1#{name}-", text)
    text = re.sub(r"font-family: [^;\"]*", f"font-family: {FONT}", text)
    text = re.sub(r"(font:[^;\"]*?px) [^;\"]*", rf"\1 {FONT}", text)
    label = f'<title id="{name}-title">{_escaped(title)}</title><desc id="{name}-desc">{_escaped(description)}</desc>'
    opened = f'<svg class="plot" role="img" aria-labelledby="{name}-title {name}-desc"'
    head, body = text.split(">", 1)
    return head.replace("<svg", opened, 1) + ">" + label + _dark(tones) + body.strip() + "\n"


def inlined(text: str) -> str:
    """The SVG for use inside HTML, which knows the namespaces without their addresses."""
    return NAMESPACE.sub("", text).replace("xlink:href", "href")


def _dark(tones: tuple[Tone, ...]) -> str:
    rules = [
        f'[style*="{use}: {tone.light}"]{{{use}:{tone.dark}!important}}' for tone in tones for use in ("fill", "stroke")
    ]
    return f"<style>@media (prefers-color-scheme: dark){{{''.join(rules)}}}</style>"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
