"""What is measured: one case is one method in one setting, and each case runs in a process of its own."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from experiments.bench.sizes import SIZES
from quantbooth.runtime.errors import UserError

__all__ = ["MODULES", "Case", "Setting", "reference", "settings", "units"]

MODULES = {
    "floor": "floor",
    "float": "dreambooth",
    "lora": "lora",
    "qlora": "qlora",
    "qlora_packed": "adapters",
    "peqa_plain": "peqa_plain",
    "quantbooth": "gains",
    "quantbooth_mixed_zones": "gains",
    "quantbooth_many_subjects": "gains",
}
"""Which module of `methods/` builds a method. It is loaded in the method's own process only."""
ZONES, SUBJECTS, BITS = 3, 8, (8, 4, 2)


@dataclass(frozen=True)
class Setting:
    """What all methods of a comparison share: the denoiser, the side of the latents, checkpointing, the device."""

    model: str
    latents: int
    checkpointing: bool
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.model not in SIZES:
            raise UserError(f"model must be one of {', '.join(SIZES)}, got {self.model!r}")
        if self.latents < 8 or self.latents % 8:
            raise UserError(
                f"latents must be a multiple of 8 (the denoiser halves them three times), got {self.latents}"
            )


@dataclass(frozen=True)
class Case:
    """One method in a setting.

    Attributes:
        setting: what it shares with those it is compared to.
        method: a key of `MODULES`.
        bits: of a code; None where weights are float.
        batch: samples of a step.
        sets: scale sets that are attached and mixed in the batch; None for a method that has none.
    """

    setting: Setting
    method: str
    bits: int | None = None
    batch: int = 1
    sets: int | None = None

    @property
    def key(self) -> dict[str, Any]:
        """What tells its row from others, under the names a row has."""
        return {**asdict(self.setting), **{name: value for name, value in vars(self).items() if name != "setting"}}

    @classmethod
    def of(cls, key: dict[str, Any]) -> "Case":
        """The inverse of `key`; what else a row holds is left aside."""
        setting = Setting(*(key[name] for name in Setting.__dataclass_fields__))
        return cls(setting, key["method"], key["bits"], key["batch"], key["sets"])

    def __str__(self) -> str:
        bits = "" if self.bits is None else f" W{self.bits}"
        sets = "" if self.sets is None else f", {self.sets} sets"
        return f"{self.method}{bits} (batch {self.batch}{sets})"


def reference(setting: Setting) -> Case:
    """Our method at 4 bits, one sample, one set: it is in every group, so that groups can be compared."""
    return Case(setting, "quantbooth", 4, 1, 1)


def settings(
    models: Iterable[str], latents: Iterable[int], checkpointing: Iterable[bool], device: str
) -> Iterator[Setting]:
    """Every combination, in this order."""
    for model, side, checkpointed in product(models, latents, checkpointing):
        yield Setting(model, side, checkpointed, device)


def units(setting: Setting, methods: Iterable[str], bits: Sequence[int] = BITS) -> list[tuple[Case, ...]]:
    """The cases of some methods in a setting; those of one tuple are compared to each other and stay together.

    Ours alone has a case for each number of bits.

    Raises:
        UserError: for a method that is not known.
    """
    found: list[tuple[Case, ...]] = []
    for method in methods:
        match method:
            case "quantbooth":
                found += [(Case(setting, method, one, 1, 1),) for one in bits]
            case "quantbooth_mixed_zones":
                found.append((Case(setting, "quantbooth", 4, ZONES, 1), Case(setting, method, 4, ZONES, ZONES)))
            case "quantbooth_many_subjects":
                found.append(
                    (Case(setting, "quantbooth", 4, SUBJECTS, 1), Case(setting, method, 4, SUBJECTS, SUBJECTS))
                )
            case "qlora" | "qlora_packed" | "peqa_plain":
                found.append((Case(setting, method, 4),))
            case "floor" | "float" | "lora":
                found.append((Case(setting, method),))
            case _:
                raise UserError(f"method must be one of {', '.join(MODULES)}, got {method!r}")
    return found
