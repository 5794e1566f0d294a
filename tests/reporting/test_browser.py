"""The page in a real browser: nothing complains, filters filter, pictures enlarge, keys and narrow screens work."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.page.browser import Browser, find
from experiments.page.sweep import sweep
from quantbooth.commands.report import method_styles
from quantbooth.reporting.page import About, write_report
from quantbooth.reporting.study import Study

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find() is None, reason="there is no Chromium here")]
VISIBLE = "[...document.querySelectorAll('{}')].filter(e => e.checkVisibility()).length"
FOCUS = "document.activeElement.getAttribute('aria-label')"
SHOWN = "document.querySelector('dialog figcaption').textContent"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two subjects, the base and four strategies, eight prompts."""
    folder = tmp_path_factory.mktemp("browser")
    study = Study(tuple(sweep(folder / "sweep", subjects=2, prompts=8, noises=1)), method_styles())
    return write_report(study, folder / "report", About(["quantbooth"]))[0]


@pytest.fixture
def browser(page: Path) -> Iterator[Browser]:
    with Browser() as opened:
        opened.open(page)
        yield opened
        assert opened.complaints == []


def _set(browser: Browser, name: str, value: str) -> None:
    browser.run(
        f"(field => {{ field.value = '{value}'; field.dispatchEvent(new Event('input', {{bubbles: true}})); }})"
        f"(document.querySelector('.filters').elements['{name}'])"
    )


def test_a_complaint_would_be_heard(tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text("<img src=nowhere.png><script>console.error('one'); throw Error('two')</script>")
    with Browser() as opened:
        opened.open(tmp_path / "bad.html")
        heard = " ".join(opened.complaints)
    assert "one" in heard and "two" in heard and "ERR_FILE_NOT_FOUND" in heard


def test_it_opens_in_silence_with_every_picture(browser: Browser) -> None:
    assert browser.complaints == []
    assert browser.run("document.querySelectorAll('.picture img').length") == 2 * (4 + 5 * 8)
    broken = "[...document.querySelectorAll('.picture img')].filter(e => !(e.complete && e.naturalWidth)).length"
    assert browser.run(broken) == 0
    assert browser.run("performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length") == 0


def test_filters_leave_what_was_asked_for_and_say_how_much(browser: Browser) -> None:
    assert browser.run(VISIBLE.format(".grid .picture")) == 2 * 5 * 8
    _set(browser, "subject", "subject 2")
    assert browser.run(VISIBLE.format(".subject")) == 1
    assert browser.run(VISIBLE.format(".grid .picture")) == 5 * 8
    _set(browser, "kind", "context")
    assert browser.run(VISIBLE.format(".grid .picture")) == 5 * 2
    _set(browser, "prompt", "NUMBER 4")
    assert browser.run(VISIBLE.format(".grid .picture")) == 5
    assert browser.run("document.querySelector('.filters output').textContent") == "1 of 16 columns shown"
    for name in ("subject", "kind", "prompt"):
        _set(browser, name, "")
    assert browser.run(VISIBLE.format(".grid .picture")) == 2 * 5 * 8


def test_a_click_enlarges_and_escape_gives_the_focus_back(browser: Browser) -> None:
    browser.run("document.querySelector('.grid .picture').click()")
    assert browser.run("document.querySelector('dialog').open") is True
    assert browser.run("document.querySelector('dialog img').width") == 512
    words = browser.run(SHOWN)
    assert words.startswith("untuned base: a photo of a sks thing") and browser.run(FOCUS) == "Close"
    assert browser.run("document.querySelector('dialog img').alt") == words
    browser.press("Escape")
    assert browser.run("document.querySelector('dialog').open") is False
    assert browser.run(FOCUS) == f"Enlarge {words}"


def test_keys_alone_walk_the_grid_and_the_enlarged_pictures(browser: Browser) -> None:
    browser.run("document.querySelector('.grid .picture').focus()")
    first = browser.run(FOCUS)
    browser.press("ArrowRight")
    assert browser.run(FOCUS) not in (first, None)
    browser.press("ArrowDown")
    assert browser.run(FOCUS).startswith("Enlarge baseline: ")
    browser.press("Enter")
    assert browser.run("document.querySelector('dialog').open") is True
    before = browser.run(SHOWN)
    browser.press("ArrowDown")
    after = browser.run(SHOWN)
    assert before.startswith("baseline: ") and after == before.replace("baseline", "s1")


def test_after_filtering_keys_skip_what_is_hidden(browser: Browser) -> None:
    _set(browser, "kind", "plain")
    browser.run("[...document.querySelectorAll('.grid .picture')].find(e => e.checkVisibility()).focus()")
    first = browser.run(FOCUS)
    browser.press("ArrowRight")
    assert first.endswith("number 3") and browser.run(FOCUS).endswith("number 7")


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_scrolls_down_only_and_both_grounds_can_be_read(page: Path, dark: bool) -> None:
    with Browser(390, 844, dark) as phone:
        phone.open(page)
        assert phone.run("document.documentElement.scrollWidth") == 390
        sticky = "Math.max(...[...document.querySelectorAll('.numbers th[scope=row]')].map(e => e.offsetWidth))"
        assert phone.run(sticky) < 195  # or it would cover the numbers that scroll behind it
        ground, ink = (phone.run(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color"))
        assert phone.complaints == []
    assert _contrast(ground, ink) > 10
    assert (_luminance(ground) < 0.05) is dark


def _luminance(colour: str) -> float:
    """Of WCAG 2, from rgb(r, g, b)."""
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)
