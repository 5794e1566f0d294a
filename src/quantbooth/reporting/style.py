"""How plots look: colours and marks of methods, and a figure as an SVG string.

Colours and marks of methods: safe for colour-blind eyes, on light and on dark ground, the same in plot and page.

From a matplotlib figure to an SVG string: real text, readable when the viewer is dark, safe to put into a page.
"""

import io
import re
from dataclasses import dataclass

from matplotlib.figure import Figure

__all__ = ["FAINT", "GROUND", "INK", "Look", "MUTED", "Tone", "inlined", "look", "svg"]


@dataclass(frozen=True)
class Tone:
    """One colour on light and on dark ground."""

    light: str
    dark: str


@dataclass(frozen=True)
class Look:
    """A method's colour, its matplotlib marker, and the same shape as a character."""

    tone: Tone
    marker: str
    glyph: str


INK = Tone("#24292f", "#e4e6e9")
MUTED = Tone("#626a73", "#9ba3ac")
FAINT = Tone("#dfe2e6", "#33383f")
GROUND = Tone("#fdfdfc", "#16181b")

LOOKS = {
    "base": Look(Tone("#3f464e", "#c9ced4"), "o", "○"),
    "float": Look(Tone("#747c86", "#a3abb4"), "D", "◆"),
    "lora": Look(Tone("#7a6a50", "#c4b294"), "d", "◊"),
    "qlora": Look(Tone("#a13d3d", "#f09a9a"), "p", "⬟"),
    "baseline": Look(Tone("#0b69b0", "#5cb3f0"), "o", "●"),
    "s1": Look(Tone("#c8500a", "#ff9152"), "s", "■"),
    "s2": Look(Tone("#00805c", "#2fc596"), "^", "▲"),
    "s2-apart": Look(Tone("#a8467f", "#e993c5"), "v", "▼"),
    "baseline-scales_in_out": Look(Tone("#8a6a00", "#e3b93c"), "P", "✚"),
    "baseline-scales_shifts": Look(Tone("#5b55c0", "#a8a3f5"), "X", "✖"),
}
OTHERS = (
    Look(Tone("#9a4a2f", "#e8a083"), "H", "⬣"),
    Look(Tone("#2f7280", "#74bfcd"), "h", "⬢"),
)
"""Hues after Okabe and Ito (2008), darkened and lightened until each has a contrast of at least 4 to its ground."""


MARKERS = (("s", "■"), ("^", "▲"), ("P", "✚"), ("X", "✖"), ("v", "▼"), ("D", "◆"), ("o", "●"))
"""Shapes that tell variants of one method apart."""


def look(method: str, methods: tuple[str, ...]) -> Look:
    """A known method's own look; a variant of it (`float-slow`) has its colour and a shape by its rank among them.

    Others take the spare looks in the order of `methods`, and share them when out.
    """
    if method in LOOKS:
        return LOOKS[method]
    family = _family(method)
    alike = [name for name in methods if name not in LOOKS and _family(name) == family]
    rank = alike.index(method)
    if family is None:
        return OTHERS[rank % len(OTHERS)]
    return Look(LOOKS[family].tone, *MARKERS[rank % len(MARKERS)])


def _family(method: str) -> str | None:
    """The known method this is a variant of."""
    return max((name for name in LOOKS if method.startswith(f"{name}-")), key=len, default=None)


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
