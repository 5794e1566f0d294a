"""Lightning's callbacks of a tuning, by config group: callbacks=device_stats, or [device_stats,learning_rate].

Those that the package's configs name watch and change nothing. A class of a package of yours (`QUANTBOOTH_TRUST`) may
change what is learned, so its node enters the identity of what is tuned.
"""

from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.utilities.model_helpers import is_overridden
from omegaconf import DictConfig, OmegaConf

from quantbooth.runtime.config import build, is_own
from quantbooth.runtime.errors import UserError

__all__ = ["callbacks_of", "deciding"]


def callbacks_of(cfg: DictConfig, processes: int) -> list[Callback]:
    """Return the callbacks that a configuration names, for the first process of those that share a tuning.

    Raises:
        UserError: when one cannot be made, for one of another package where several processes tune, and for two whose
            states have one name.
    """
    if (others := deciding(cfg)) and processes > 1:
        raise UserError(
            f"callbacks.{next(iter(others))} may change what is learned, and would do so in one process of "
            f"{processes}; choose trainer.devices=1, or leave it out"
        )
    made = {name: build(node, Callback) for name, node in (cfg.get("callbacks") or {}).items()}
    first = dict[str, str]()
    for name, one in made.items():
        if is_overridden("state_dict", instance=one, parent=Callback) and first.setdefault(one.state_key, name) != name:
            raise UserError(
                f"callbacks.{name} and callbacks.{first[one.state_key]} both have the state_key {one.state_key}; leave "
                "one out, or let state_key differ"
            )
    return list(made.values())


def deciding(cfg: DictConfig) -> dict[str, Any]:
    """Return the nodes of callbacks of other packages, by name."""
    found = OmegaConf.to_container(cfg.get("callbacks") or OmegaConf.create({}), resolve=True)
    assert isinstance(found, dict)
    return {str(name): node for name, node in found.items() if not is_own(str(node.get("_target_")))}
