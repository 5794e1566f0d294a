"""The style of plots: colours and markers of methods, common axes, a figure as an SVG string.

Colours are safe for colour-blind eyes, on light and on dark ground, the same in plot and page: hues after Okabe and Ito
(2008), darkened and lightened until each has a contrast of at least 4 to its ground.
"""

import io
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

__all__ = [
    "BASE_STYLE",
    "FAINT",
    "GROUND",
    "INK",
    "MUTED",
    "PALETTE",
    "RC",
    "Style",
    "ThemeColour",
    "assign_styles",
    "family",
    "drawing",
    "in_legend",
    "inlined",
    "log_axis",
    "svg",
]

RC: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "quantbooth",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.parse_math": False,
}
GLYPHS = dict(zip("osD^vPXdpHh*", "●■◆▲▼✚✖◊⬟⬣⬢★", strict=True))
"""The characters of matplotlib's markers."""


@dataclass(frozen=True)
class ThemeColour:
    """One colour on light and on dark ground."""

    light: str
    dark: str


INK = ThemeColour("#24292f", "#e4e6e9")
MUTED = ThemeColour("#626a73", "#9ba3ac")
FAINT = ThemeColour("#dfe2e6", "#33383f")
GROUND = ThemeColour("#fdfdfc", "#16181b")


@dataclass(frozen=True)
class Style:
    """The style of a method: colour, matplotlib marker, label in tables, and order among methods."""

    colour: ThemeColour
    marker: str
    label: str = ""
    order: float = float("inf")
    hollow: bool = False

    @property
    def glyph(self) -> str:
        """The marker as a character."""
        return "○" if self.hollow else GLYPHS.get(self.marker, "●")


BASE_STYLE = Style(ThemeColour("#3f464e", "#c9ced4"), "o", "untuned base", -1, hollow=True)
PALETTE = tuple(
    Style(ThemeColour(light, dark), marker)
    for light, dark, marker in (
        ("#0b69b0", "#5cb3f0", "o"),
        ("#c8500a", "#ff9152", "s"),
        ("#00805c", "#2fc596", "^"),
        ("#a8467f", "#e993c5", "v"),
        ("#9a4a2f", "#e8a083", "H"),
        ("#2f7280", "#74bfcd", "h"),
        ("#8a6a00", "#e3b93c", "P"),
        ("#5b55c0", "#a8a3f5", "X"),
        ("#747c86", "#a3abb4", "D"),
    )
)
"""Styles for methods without a config file, calibrations and attributes."""
MARKERS = "s^PXvDo"


def family(method: str, known: Mapping[str, Style]) -> str | None:
    """Return the known method that this is, or is a variant of (`float-slow`)."""
    return max((name for name in known if method == name or method.startswith(f"{name}-")), key=len, default=None)


def assign_styles(names: Iterable[tuple[str, bool]], known: Mapping[str, Style]) -> list[Style]:
    """Return a style for each of several rows.

    The first row of a known method has its style. Another of the same colour has the next marker; a row of a method
    without a config file, or of a variant with other settings, has the next free style of the palette.

    Args:
        names: of each row its method, and whether it is distinguished by settings.
        known: styles of methods.
    """
    rows, found = list(names), list[Style]()
    taken = {style.colour for name, style in known.items() if any(name == family(method, known) for method, _ in rows)}
    free = [style for style in PALETTE if style.colour not in taken] or list(PALETTE)
    spare = 0
    for method, distinguished in rows:
        kin = family(method, known)
        own = None if kin is None else known[kin]
        used = [style.marker for style in found if own is not None and style.colour == own.colour]
        if own is not None and method == kin and not used:
            found.append(own)
        elif own is None or (distinguished and used):
            style = free[spare % len(free)]
            markers = list(dict.fromkeys(style.marker + MARKERS))
            found.append(replace(style, marker=markers[spare // len(free) % len(markers)]))
            spare += 1
        else:
            fresh = [marker for marker in MARKERS if marker not in (*used, own.marker)]
            found.append(replace(own, marker=(fresh or MARKERS)[0], label=""))
    return found


@contextmanager
def drawing() -> Iterator[None]:
    """Draw figures under `RC`; the reader's fonts draw texts, so a glyph that ours lacks is no fault."""
    with warnings.catch_warnings(), mpl.rc_context(RC):
        warnings.filterwarnings("ignore", "Glyph .* missing")
        yield


def in_legend(name: str) -> str:
    """Return a name for a legend, which leaves out those that begin with an underscore."""
    return f"\u200b{name}" if name.startswith("_") else name


def log_axis(axis: Any) -> None:
    """Make an axis logarithmic, its numbers without mathematics."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_formatter(LogFormatter())
    axis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(1, 0.4)))


def frame(axes: Axes, title: str = "", across: str = "", up: str = "") -> None:
    """Style the axes: a title on the left, a faint grid, no spines, no ticks."""
    axes.set_title(title, loc="left", color=INK.light, fontsize=9)
    axes.set_xlabel(across, color=MUTED.light)
    axes.set_ylabel(up, color=MUTED.light)
    axes.grid(color=FAINT.light, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, which="both", labelcolor=MUTED.light, pad=4)
    for spine in axes.spines.values():
        spine.set_visible(False)


FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"
HEADER = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<!--.*?-->", re.DOTALL)
TEXT = re.compile(r"(<text\b[^>]*>)(.*?)(</text>)", re.DOTALL)
NAMESPACE = re.compile(r'\s+xmlns(?::xlink)?="[^"]*"')
SIZE = re.compile(r'(<svg[^>]*?)\s+width="[^"]*"', re.DOTALL)
HEIGHT = re.compile(r'(<svg[^>]*?)\s+height="[^"]*"', re.DOTALL)


def svg(figure: Figure, name: str, title: str, description: str, styles: Iterable[Style]) -> str:
    """Return the figure, drawn in the light colour of each style; a stylesheet inside swaps them on dark ground.

    `name` makes ids unique, so that several figures fit into one page. The same figure gives the same string if
    drawn under the rc parameters `svg.hashsalt` and `svg.fonttype: none`.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = TEXT.sub(_apart, HEADER.sub("", buffer.getvalue()).strip())
    text = HEIGHT.sub(r"\1", SIZE.sub(r"\1", text))
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'((?:xlink:)?href="|url\()#', rf"\1#{name}-", text)
    text = re.sub(r"font-family: [^;\"]*", f"font-family: {FONT}", text)
    text = re.sub(r"(font:[^;\"]*?px) [^;\"]*", rf"\1 {FONT}", text)
    label = f'<title id="{name}-title">{_escaped(title)}</title><desc id="{name}-desc">{_escaped(description)}</desc>'
    opened = f'<svg class="plot" role="img" aria-labelledby="{name}-title {name}-desc"'
    head, body = text.split(">", 1)
    colours = (INK, MUTED, FAINT, GROUND, *(style.colour for style in styles))
    return head.replace("<svg", opened, 1) + ">" + label + _dark(colours) + body.strip() + "\n"


def _apart(found: re.Match[str]) -> str:
    """Return a text of the figure in which nothing looks like an attribute or a reference of its markup."""
    return (
        found[1] + re.sub(r'["#]|(?<=font):|(?<=font-family):', lambda sign: f"&#{ord(sign[0])};", found[2]) + found[3]
    )


def inlined(text: str) -> str:
    """Return the SVG for use inside HTML, without namespaces."""
    return NAMESPACE.sub("", text).replace("xlink:href", "href")


def _dark(colours: Iterable[ThemeColour]) -> str:
    rules = [
        f'[style*="{use}: {colour.light}"]{{{use}:{colour.dark}!important}}'
        for colour in colours
        for use in ("fill", "stroke")
    ]
    return f"<style>@media (prefers-color-scheme: dark){{{''.join(rules)}}}</style>"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
