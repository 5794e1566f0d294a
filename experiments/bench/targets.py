"""What was aimed at before anything was measured: each target is a limit that a figure should not pass."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from experiments.bench.ratios import found, peak_gb, peak_ratio, step_ratio
from experiments.bench.results import Row

__all__ = ["TARGETS", "Target"]

Measure = Callable[[list[Row]], float | None]


@dataclass(frozen=True)
class Target:
    """A limit: `measure` gives the figure from all rows, None where rows are missing."""

    says: str
    limit: float
    measure: Measure


def _in(rows: Iterable[Row], model: str, checkpointing: bool = False) -> list[Row]:
    setting = {"model": model, "latents": 32, "checkpointing": checkpointing, "device": "cpu"}
    return [row for row in rows if all(row[name] == value for name, value in setting.items())]


def _w4(rows: list[Row], model: str = "sd15", checkpointing: bool = False) -> Row | None:
    return found(_in(rows, model, checkpointing), method="quantbooth", bits=4, batch=1)


def _peer(method: str, ratio: Callable[[Row | None, Row | None], float | None]) -> Measure:
    return lambda rows: ratio(_w4(rows), found(_in(rows, "sd15"), method=method))


def _peak(model: str, checkpointing: bool) -> Measure:
    def measure(rows: list[Row]) -> float | None:
        row = _w4(rows, model, checkpointing)
        return None if row is None else peak_gb(row)

    return measure


def _figure(name: str) -> Measure:
    def measure(rows: list[Row]) -> float | None:
        row = _w4(rows)
        return None if row is None else row[name]

    return measure


def _mixed(method: str) -> Measure:
    def measure(rows: list[Row]) -> float | None:
        here = _in(rows, "sd15")
        row = found(here, method=method)
        batch = None if row is None else row["batch"]
        return step_ratio(row, found(here, method="quantbooth", batch=batch, sets=1))

    return measure


TARGETS = (
    Target("peak, x float DreamBooth", 0.14, _peer("float", peak_ratio)),
    Target("peak, x LoRA", 0.40, _peer("lora", peak_ratio)),
    Target("peak, x QLoRA", 0.50, _peer("qlora", peak_ratio)),
    Target("peak, x plain PEQA", 0.22, _peer("peqa_plain", peak_ratio)),
    Target("peak with checkpointing, GB", 1.6, _peak("sd15", True)),
    Target("step, x float DreamBooth", 0.65, _peer("float", step_ratio)),
    Target("step, x LoRA", 1.1, _peer("lora", step_ratio)),
    Target("step, x plain PEQA", 0.25, _peer("peqa_plain", step_ratio)),
    Target("step, x floor", 1.25, _peer("floor", step_ratio)),
    Target("SDXL's peak, GB", 5.0, _peak("sdxl", False)),
    Target("3 zones mixed, x the step of one zone, batch 3", 1.05, _mixed("quantbooth_mixed_zones")),
    Target("8 subjects mixed, x the step of one subject, batch 8", 1.05, _mixed("quantbooth_many_subjects")),
    Target("base file, MB", 470.0, _figure("base_file_mb")),
    Target("scale set file, MB", 1.3, _figure("file_mb")),
)
"""W4 on SD 1.5's denoiser, 32x32 latents, batch 1, float32, no checkpointing, CPU, unless it says otherwise."""
