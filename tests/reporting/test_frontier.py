"""The frontier plot: when there is one, and that it says in words and labels what it shows."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

from quantbooth.reporting.panels import frontier
from quantbooth.reporting.results import Result
from quantbooth.reporting.study import Study

Make = Callable[..., Result]
COUNTS = {"float": 4_306_072, "baseline": 17_088, "s2": 51_264}


def test_every_method_stands_at_the_count_it_trained(make: Make) -> None:
    text = frontier(Study(tuple(make(method, costs={"trainable": count}) for method, count in COUNTS.items())))
    assert text is not None
    ElementTree.fromstring(text)
    words = re.findall(r"<text[^>]*>([^<]*)</text>", text)
    assert {"float", "baseline", "s2", "numbers trained", "CLIP-T"} <= set(words)
    assert "baseline trains 17,088: subject (oracle) 0.500, local CLIP-I 0.700, CLIP-T 0.300" in text


def test_two_counts_make_no_frontier(make: Make) -> None:
    results = [make("float", costs={"trainable": 4_306_072})]
    results += [make(method, costs={"trainable": 17_088}) for method in ("baseline", "s1")]
    assert frontier(Study(tuple(results))) is None


def test_methods_that_lack_a_subject_or_a_count_stay_out(make: Make) -> None:
    whole = [make(m, s, costs={"trainable": c}) for m, c in COUNTS.items() for s in ("mug", "duck")]
    assert frontier(Study(tuple(whole))) is not None
    lacking = [result for result in whole if (result.method, result.subject) != ("s2", "duck")]
    assert frontier(Study(tuple(lacking))) is None
    assert frontier(Study(tuple(make(method, costs={}) for method in COUNTS))) is None


def test_the_same_results_give_the_same_plot(make: Make) -> None:
    results = [make(method, costs={"trainable": count}) for method, count in COUNTS.items()]
    assert frontier(Study(tuple(results))) == frontier(Study(tuple(results)))
