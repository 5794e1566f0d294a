"""The first lines of the page: the question, settled differences, missing runs, and the setting."""

from quantbooth.reporting.columns import COSTS, score_named, signed
from quantbooth.reporting.inference import FEWEST, Difference, all_differences
from quantbooth.reporting.panels import learned_in, strategies
from quantbooth.reporting.study import Method, Study
from quantbooth.reporting.tables import Table

__all__ = ["asked", "definitions", "facts", "headline", "incomplete", "title"]

COMPARED = (
    ("clip_t", "follows the prompt better", "follows the prompt worse"),
    ("local_clip_i", "resembles the subject more", "resembles the subject less"),
)


def title(study: Study) -> str:
    """Return the page's title."""
    many = len(study.subjects)
    return f"How each method learned {study.subjects[0] if many == 1 else f'{many} subjects'}"


def headline(study: Study) -> str:
    """Return the settled differences of methods to a reference, or to their untuned base; or that there is none.

    The reference is the first of `compare_with`, or the baseline.

    Settled: six subjects or more, an interval clear of zero, and p below 5 % after Holm among all differences of the
    score that the report holds.
    """
    reference, methods = _compared(study)
    if reference is None:
        return "Nothing can be compared yet: no two methods have all subjects and seeds."
    count = len(study.subjects)
    if count < FEWEST:
        needed = f"that takes {FEWEST} subjects or more, and this report has {count}"
        return f"No difference between methods is settled: {needed}."
    found = {key: all_differences(study, score_named(key)) for key, *_ in COMPARED}
    clauses = []
    for method in methods:
        pair = (study.last(method), study.last(reference))
        parts = [_claim(found[key][pair], *verbs) for key, *verbs in COMPARED if pair in found[key]]
        if claimed := " and ".join(part for part in parts if part):
            clauses.append(f"{study.label(method)} {claimed}")
    against = f"the {study.label(reference)}" if reference.untuned else study.label(reference)
    if not clauses:
        return f"No difference from {against} in following the prompt or resembling the subject is settled."
    return (
        f"Settled over {count} subjects, compared with {against}: {'; '.join(clauses)}. "
        "± spans the 95 % interval; nothing else in these two scores is settled."
    )


def _compared(study: Study) -> tuple[Method | None, list[Method]]:
    """Return a reference, and what to compare with it: of the same weights if possible."""
    tuned = study.complete
    wanted = study.references if study.compare_with else (m for m in tuned if m.name == "baseline")
    for reference in wanted:
        if others := [method for method in tuned if method != reference]:
            return reference, [method for method in others if method.quant == reference.quant] or others
    for base in (method for method in study.methods if method.untuned and not study.lacking(method)):
        if own := [method for method in tuned if study.start(method) == base]:
            return base, own
    return (tuned[0], list(tuned[1:])) if len(tuned) > 1 else (None, [])


def _claim(found: Difference, more: str, less: str) -> str:
    if not found.settled or found.interval is None:
        return ""
    unit = found.score.unit
    figure = f"{found.score.title} {signed(found.mean, unit)} ± {unit.text(found.interval.half)}"
    return f"{more if found.sign > 0 else less} ({figure})"


def asked(study: Study) -> str:
    """Return the question in two sentences."""
    first = study.results[0]
    noises, prompts = first.rows["noise_seed"].nunique(), first.rows["prompt"].nunique()
    noise = "the same noise" if noises == 1 else f"the same {noises} noises"
    methods = _listed([study.label(method) for method in study.tuned]) or "No method"
    return (
        f"{methods} personalized the base {first.base} for {_listed(list(study.subjects))}. "
        f"Each then drew {prompts} {'prompt' if prompts == 1 else 'prompts'} from {noise}, and was judged by how well "
        "the subject can be recognized and how well the prompt is followed: learning the one usually costs some of the "
        "other."
    )


def incomplete(study: Study) -> list[str]:
    """Return one line for each method whose last snapshot lacks subjects or seeds, or was not its run's last."""
    return [
        f"{study.label(method)} lacks {', '.join(lacks)}"
        for method in study.methods
        if (lacks := study.lacking(method))
    ]


def definitions(study: Study, table: Table) -> list[tuple[str, str]]:
    """Return what each column of the tables means."""
    shown = {column.key for column in table.shown}
    return [(s.title, s.meaning) for s in study.scores] + [(c.title, c.meaning) for c in COSTS if c.key in shown]


def facts(study: Study) -> list[tuple[str, str]]:
    """Return the setting, in names and values."""
    first, total = study.results[0], sum(len(result.rows) for result in study.results)
    found = [("base", _base(first.base)), ("scorer", first.scorer)]
    if first.protocol:
        found.append(("protocol", first.protocol))
    found += [
        ("subjects", ", ".join(study.subjects)),
        ("tuning seeds", ", ".join(map(str, study.seeds))),
        ("images", f"{len(first.rows)} for each subject, method, seed and snapshot; {total:,} in all"),
    ]
    return found + [(study.label(method), learned_in(strategy)) for method, strategy in strategies(study).items()]


def _base(name: str) -> str:
    if not name.startswith("toy"):
        return name
    return (
        f"{name}: a small model shaped like Stable Diffusion, pre-trained by this project on pictures of a drawn toy "
        "world; its figures compare methods and say nothing about Stable Diffusion itself"
    )


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + f" and {names[-1]}" if names else ""
