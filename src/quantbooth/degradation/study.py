"""Comparable degradation measurements: float, and quantized settings with short, distinct labels."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

from quantbooth.degradation.files import DegradationResult
from quantbooth.kinds import shown
from quantbooth.runtime.errors import UserError
from quantbooth.store.files import SHORT

__all__ = ["DegradationStudy", "left_float"]

NAMED = 2


@dataclass(frozen=True, eq=False)
class DegradationStudy:
    """The float measurement, and the settings compared with it: most bits first, then in the given order.

    Raises:
        UserError: when the float measurement is missing, or a setting was compared with another one.
    """

    found: tuple[DegradationResult, ...]

    def __post_init__(self) -> None:
        references = {result.record.reference: result for result in self.found}
        if len(references) > 1:
            one, other, *_ = references.values()
            raise UserError(
                f"one document needs one float base, scorer, sampler and choice of questions, but {one.run} and "
                f"{other.run} were compared with different float measurements; sweep over each separately"
            )
        if not any(result.is_float for result in self.found):
            raise UserError(f"a document needs the float measurement, got only {len(self.found)} quantized ones")

    @property
    def reference(self) -> DegradationResult:
        """The float measurement."""
        return next(result for result in self.found if result.is_float)

    @cached_property
    def settings(self) -> tuple[DegradationResult, ...]:
        """The quantized measurements."""
        return tuple(sorted((d for d in self.found if not d.is_float), key=lambda d: -(d.record.bits or 0)))

    @property
    def quants(self) -> tuple[str, ...]:
        """Names of bit-widths, most bits first."""
        return tuple(dict.fromkeys(result.record.quant for result in self.settings))

    def label(self, result: DegradationResult) -> str:
        """Return the bit-width and the options that distinguish the setting from others of the study."""
        if result.is_float:
            return "float"
        return ", ".join(part for part in (result.record.quant, self.family(result)) if part)

    def family(self, result: DegradationResult) -> str:
        """Return the options that a setting shares with those at other bit-widths, if they differ in the study."""
        parts = self._parts(result)
        alike = [
            other for other in self.settings if (other.record.quant, self._parts(other)) == (result.record.quant, parts)
        ]
        differ = [_differs(column) for column in zip(*map(self._parts, self.settings), strict=True)]
        told = [part for part, wanted in zip(parts, differ, strict=True) if wanted and part]
        return ", ".join([*told, *([result.run[-SHORT:]] if len(alike) > 1 else [])])

    def _parts(self, result: DegradationResult) -> list[str]:
        return [result.record.calibration, *self._options(result), left_float(result, short=True)]

    @property
    def families(self) -> tuple[str, ...]:
        """The families in order of first appearance."""
        return tuple(dict.fromkeys(self.family(result) for result in self.settings))

    def _options(self, result: DegradationResult) -> list[str]:
        """Return the options of a calibration that differ among its settings; an empty text where it has none."""
        names = list(dict.fromkeys((d.record.calibration, name) for d in self.settings for name in d.record.options))
        values = {
            (calibration, name): [
                str(d.record.options[name])
                for d in self.settings
                if d.record.calibration == calibration and name in d.record.options
            ]
            for calibration, name in names
        }
        own = {(result.record.calibration, name): value for name, value in result.record.options.items()}
        return [
            f"{name}={_typed(own[calibration, name])}" if (calibration, name) in own else ""
            for calibration, name in names
            if _differs(values[calibration, name])
        ]


def _typed(value: object) -> str:
    return value if isinstance(value, str) else shown(value)


def left_float(result: DegradationResult, short: bool = False) -> str:
    """Return the float linear and convolution layers: their names if they are few, else their number."""
    names = result.record.left_float
    text = ", ".join(names) if len(names) <= NAMED else f"{len(names)} layers"
    if not short:
        return text or "none"
    return f"{text.replace(', ', ' + ')} float" if names else "all quantized"


def _differs(values: Sequence[Hashable]) -> bool:
    return len(set(values)) > 1
