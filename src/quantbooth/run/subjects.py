"""The subjects of a run, always a list: those of `subjects=[a,b]`, else the one of `subject=a`."""

from copy import deepcopy

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from quantbooth.runtime.config import composed, plain
from quantbooth.runtime.errors import UserError

__all__ = ["each_subject"]


def each_subject(cfg: DictConfig) -> list[DictConfig]:
    """Return the configuration of each subject, as in a run of that subject alone.

    Raises:
        UserError: for options of `subject` together with `subjects`.
        hydra.errors.MissingConfigException: for a name that the group `subject` does not have.
    """
    typed = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    if HydraConfig.initialized() and "subject" not in HydraConfig.get().runtime.choices:
        raise UserError("subject=[a,b] merges its members; write subjects=[a,b] for one run, -m subject=a,b for each")
    if cfg.subjects is None:
        return [cfg]
    names = plain(cfg)["subjects"]
    listed = ",".join(names)
    if single := [option for option in typed if option.partition("=")[0].partition(".")[0] == "subject"]:
        raise UserError(f"{single[0]} is about one subject, subjects=[{listed}] names several; leave one out")
    return [_with_subject(cfg, name) for name in names]


def _with_subject(cfg: DictConfig, name: str) -> DictConfig:
    own = deepcopy(cfg)
    with open_dict(own):
        own.subject = composed("subject", name).subject
        own.subjects = None
    return own
