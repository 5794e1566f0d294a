"""What a tuning will do with the experts of its strategy: said, or refused, before it begins."""

from collections.abc import Iterator

from quantbooth.run.experts import few_samples, unused
from quantbooth.run.run import Run
from quantbooth.run.stopping import not_guarded

__all__ = ["require_experts", "said_of_experts"]


def said_of_experts(run: Run) -> Iterator[str]:
    """Yield a line for each expert that no sampler uses, that the guard does not see, or that sees few samples."""
    yield from unused(run.strategy, run.timesteps)
    yield from not_guarded(run)
    yield from _few(run)


def require_experts(run: Run) -> None:
    """Refuse an expert that would see no sample, and experts that no sampler uses, if borders are known before work."""
    if run.plan.undecided is None:
        list(_few(run))
        list(unused(run.strategy, run.timesteps))


def _few(run: Run) -> Iterator[str]:
    return few_samples(run.strategy, run.recipe.samples_seen, run.recipe.steps, run.timestep_sampler)
