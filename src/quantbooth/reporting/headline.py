"""The headline: one sentence made from the numbers, honest about signs, intervals and few subjects."""

from quantbooth.reporting.claims import FEWEST, Difference, Pair, family, last
from quantbooth.reporting.columns import score_named, signed
from quantbooth.reporting.study import BASE, Arm, Study

__all__ = ["asked", "headline", "incomplete"]

PROMPT, SUBJECT = "clip_t", "local_clip_i"
Told = dict[Pair, Difference]


def headline(study: Study) -> str:
    """How the strategies differ from the baseline in following the prompt and resembling the subject.

    Without a baseline to compare with, how tuning moved each method from its untuned base. Settled is what is settled
    among all differences that the report tells.
    """
    reference, arms = _compared([arm for arm in study.arms if not study.lacking(arm)])
    told = [family(study, score_named(key)) for key in (PROMPT, SUBJECT)]
    clauses = [] if reference is None else [_clause(study, arm, reference, told) for arm in arms]
    if reference is None or not any(clauses):
        return "Nothing can be compared yet: no two methods have all subjects and seeds."
    listed = "; ".join(clause for clause in clauses if clause)
    return f"Against {_definite(study, reference)}, {_scope(study)}: {listed}; {_caveat(study)}."


def asked(study: Study) -> str:
    """What was asked, in two sentences."""
    first = study.results[0]
    tuned = [study.label(arm) for arm in study.arms if not arm.untuned]
    noises = first.rows["noise_seed"].nunique()
    noise = "the same noise" if noises == 1 else f"the same {noises} noises"
    prompts = first.rows["prompt"].nunique()
    return (
        f"{_listed(tuned) or 'No method'} personalized the base {first.base} for {_listed(list(study.subjects))}. "
        f"Each then drew {_count(prompts, 'prompt')} from {noise}, and was judged by how well the subject "
        "can be recognized and how well the prompt is followed: learning the one usually costs some of the other."
    )


def incomplete(study: Study) -> list[str]:
    """One line for each method whose last snapshot lacks subjects or seeds, or was not its run's last."""
    return [f"{study.label(arm)} lacks {', '.join(lacks)}" for arm in study.arms if (lacks := study.lacking(arm))]


def _compared(complete: list[Arm]) -> tuple[Arm | None, list[Arm]]:
    """A reference, and what to hold against it: of the same weights if possible."""
    tuned = [arm for arm in complete if not arm.untuned]
    for reference in (arm for arm in tuned if arm.method == "baseline"):
        others = [arm for arm in tuned if arm != reference]
        alike = [arm for arm in others if arm.quant == reference.quant]
        if others:
            return reference, alike or others
    for reference in (arm for arm in complete if arm.untuned):
        alike = [arm for arm in tuned if arm.quant == reference.quant]
        if alike:
            return reference, alike
    return (tuned[0], tuned[1:]) if len(tuned) > 1 else (None, [])


def _clause(study: Study, arm: Arm, reference: Arm, told: list[Told]) -> str:
    pair = ((arm, last(study, arm)), (reference, last(study, reference)))
    prompt, subject = (differences.get(pair) for differences in told)
    if prompt is None or subject is None:
        return ""
    link = "but" if prompt.sign * subject.sign < 0 else "and"
    return (
        f"{study.label(arm)} {_verb(prompt, 'follows the prompt', 'better', 'worse')} ({_figure(prompt)}) {link} "
        f"{_verb(subject, 'resembles the subject', 'more', 'less')} ({_figure(subject)})"
    )


def _verb(found: Difference, does: str, more: str, less: str) -> str:
    if found.sign:
        return f"{does} {more if found.sign > 0 else less}"
    return f"{does} no differently" if found.interval is None else f"{does} with no settled difference"


def _figure(found: Difference) -> str:
    unit = found.score.unit
    spread = "" if found.spread is None else f" ± {unit.text(found.spread)}"
    return f"{found.score.title} {signed(found.mean, unit)}{spread}"


def _definite(study: Study, arm: Arm) -> str:
    return f"the {study.label(arm)}" if arm.method in (BASE, "baseline") else study.label(arm)


def _scope(study: Study) -> str:
    subjects = study.subjects
    return f"on {subjects[0]}" if len(subjects) == 1 else f"over {len(subjects)} subjects"


def _caveat(study: Study) -> str:
    count = len(study.subjects)
    if count == 1:
        return "one subject is no proof"
    if count < FEWEST:
        return f"{count} subjects are few, and intervals over so few are too narrow"
    return "± spans the 95 % interval over subjects"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + f" and {names[-1]}" if names else ""
