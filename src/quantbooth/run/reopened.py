"""The run of a tuned artifact by its name: its own options stand for those that tuned it, and need not be typed again.

What is typed decides how pictures are drawn and scored, and where files are. What contradicts the tuning is refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from quantbooth.kinds import shown
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.options import given_values, require_valid
from quantbooth.runtime.progress import say
from quantbooth.runtime.used import options_in
from quantbooth.schema import TRAINING_ONLY
from quantbooth.store.documents import read_options
from quantbooth.store.listing import find_named
from quantbooth.store.manifest import MANIFEST, Manifest
from quantbooth.store.store import CONFIG
from quantbooth.tuning.files import TUNED, open_tuned

__all__ = ["reopened", "run_of"]

COMMAND = (
    *("prompt", "scale_sets", "strength", "unconditional_strength", "reward_guidance", "negative_prompt", "lora"),
    *("pictures", "dry_run"),
    *("paths", "logger", "report", "export", "preview", "probe", "degradation"),
)
"""Options of the command that runs, never those of the tuning."""
FREE = ("sampler", "protocol", "scorer", "locator", "dino", "trainer", "resources")
"""Options of drawing and scoring: those of the tuning, where they are not given."""
DECIDED = ("protocol.eval_steps", "resources.save_dtype")
"""Options in these groups that the tuning decided."""
MOVED = {
    **{f"base.{key}": f"base.folder.{key}" for key in ("path", "revision", "config")},
    **{"subject.path": "subject.pictures.path", "locator": "scorer.locator", "dino": "scorer.dino"},
}
"""Options that may be given again, because files move, and what repeats them."""
CHOSEN_BY_METHOD = ("quant", "tuner", "strategy")


def run_of(cfg: DictConfig) -> Run:
    """Return the run of the options, or of the artifact that `scale_sets` names with the options that it leaves free.

    Raises:
        UserError: as `reopened`; when the artifact's options are not those of the artifact any more.
    """
    if cfg.scale_sets is None:
        return Run(cfg)
    run, manifest = reopened(cfg, HydraConfig.get().overrides.task if HydraConfig.initialized() else [])
    if run.settings["scale_sets"] is None:  # a chain, which looks for what it needs in the store
        tuned = run.only.tuned
        if tuned.store.place(tuned.kind, tuned.identity, tuned.label)[0] != manifest.fingerprint:
            raise UserError(
                f"the options in {manifest.name}/{CONFIG} are not those of this artifact: its base or its photos have "
                "changed, or another version of quantbooth made it; give base.path or subject.path, or tune again"
            )
    return run


def reopened(cfg: DictConfig, words: Sequence[str]) -> tuple[Run, Manifest]:
    """Return the run of the artifact that `scale_sets` names, and its manifest.

    Args:
        cfg: the options as composed.
        words: the options that were typed.

    Raises:
        UserError: when no artifact or several have that name, or a typed option contradicts the tuning.
    """
    if cfg.subjects is not None:
        raise UserError("scale_sets belong to one subject; leave out subjects or scale_sets")
    folder = _folder(cfg, words)
    manifest, known = open_tuned(folder), read_options(folder / CONFIG)
    made = deepcopy(cfg)
    with open_dict(made):
        for option in known.keys() - set(COMMAND):
            made[option] = known[option]
        typed = sorted(options_in(words), key=lambda pair: "." in pair[1])  # choices of groups first, as Hydra does
        for word, option in typed:
            _take(made, cfg, known, word, option, manifest)
        if "folder" in made.base and "converted" in made.base.folder:
            made.base.folder.converted = "${paths.outputs}/bases"
        if folder.parent.name in TUNED:
            made.paths.store = str(folder.parents[1])
        made.scale_sets = None if cfg.prompt is None else str(folder)
    require_valid(made)
    say(f"{folder.name} decides subject, base, quant, tuner, strategy and seed")
    if cfg.prompt is None:
        _keep_training(made, known, {option: word for word, option in typed}, manifest)
    return Run(made, Run(_as_tuned(made, known))), manifest


def _folder(cfg: DictConfig, words: Sequence[str]) -> Path:
    """Return the folder of a path, or of a name in the store."""
    name, store = str(cfg.scale_sets), Path(cfg.paths.store).expanduser()
    path = Path(name).expanduser()
    if "/" not in name and not (path / MANIFEST).is_file():
        return find_named(store, name, TUNED, "scale_sets")
    own = path.resolve().parents[1]
    if any(option == "paths.store" for _, option in options_in(words)) and own != store.resolve():
        raise UserError(f"scale_sets={name} is in the store {own}, got paths.store={store}; leave out paths.store")
    return path


def _take(made: DictConfig, cfg: DictConfig, known: Mapping[str, Any], word: str, option: str, of: Manifest) -> None:
    """Take one typed option over, or refuse it.

    Raises:
        UserError: when it contradicts the tuning.
    """
    group = option.partition(".")[0]
    if group in COMMAND:
        return
    if option == "experiment":
        raise UserError(f"{word} has settings of its own, scale_sets={cfg.scale_sets} is of one; leave out one of them")
    if option == "preset":
        raise UserError(
            f"{word} has options of tuning too, which scale_sets={cfg.scale_sets} decides; type its others, such as "
            "trainer=gpu protocol.batch=1"
        )
    if option == "method":
        for each in CHOSEN_BY_METHOD:
            _require_same_choice(made, cfg, each, word, of)
        asked = OmegaConf.select(cfg, "method_style.label")
        if (label := (known.get("method_style") or {}).get("label", asked)) != asked:
            raise _contradiction(word, of, f"method={label}")
    elif group not in known and group not in FREE:
        raise _contradiction(word, of, f"no option {group}, which came later")
    elif option in DECIDED or (group not in FREE and option not in MOVED and "." in option):
        _require_same(made, cfg, option, word, of)
    elif group in FREE or option in MOVED:
        _set(made, cfg, option)
        copy = MOVED.get(option) or (MOVED.get(group) if "." in option else None)
        if copy and OmegaConf.select(made, copy, default=copy) != copy:
            OmegaConf.update(made, copy, f"${{{option if option in MOVED else group}}}", merge=False)
        for decided in (each for each in DECIDED if option == each.partition(".")[0]):
            OmegaConf.update(made, decided, OmegaConf.select(OmegaConf.create(dict(known)), decided))
    elif OmegaConf.is_dict(OmegaConf.select(cfg, option)):
        _require_same_choice(made, cfg, option, word, of)
    else:
        _require_same(made, cfg, option, word, of)


def _set(made: DictConfig, cfg: DictConfig, option: str) -> None:
    """Give an option the value that was typed, its references those of the artifact."""
    group, _, key = option.rpartition(".")
    node: Any = OmegaConf.select(cfg, group) if group else cfg
    value = OmegaConf.to_container(node, resolve=False)[key]  # type: ignore[index,call-overload]
    OmegaConf.update(made, option, value, merge=False, force_add=True)


def _require_same(made: DictConfig, cfg: DictConfig, option: str, word: str, of: Manifest) -> None:
    """Refuse an option with another value than in the tuning."""
    tried = deepcopy(made)
    _set(tried, cfg, option)
    asked, found = (OmegaConf.select(each, option) for each in (tried, made))
    if asked != found:
        raise _contradiction(word, of, f"{option}={shown(_plain(found))}")


def _require_same_choice(made: DictConfig, cfg: DictConfig, group: str, word: str, of: Manifest) -> None:
    """Refuse a choice of a group that makes something else, or has another name, than in the tuning."""
    tried = deepcopy(made)
    _set(tried, cfg, group)
    asked, found = (dict(_named(given_values(each[group]))) for each in (tried, made))
    if asked != found:
        name = (
            of.contents["strategy"]["name"] if group == "strategy" else found.get("name") or found.get("pictures.name")
        )
        raise _contradiction(word, of, f"{group} {name}" if name else f"another {group}")


def _named(node: Any, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield what a choice is known by: its names and what it makes; all of a group without them."""
    own = list(_leaves(node, prefix))
    marks = [(key, value) for key, value in own if key.rpartition(".")[2] in ("_target_", "name")]
    yield from marks or own


def _leaves(node: Any, prefix: str) -> Iterator[tuple[str, object]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}{key}.")
    else:
        yield prefix.removesuffix("."), node


def _keep_training(made: DictConfig, known: Mapping[str, Any], typed: Mapping[str, str], of: Manifest) -> None:
    """Keep the options of training alone, with another trainer too; refuse others, which drawing has no use for."""
    for key, neutral in TRAINING_ONLY.items():
        was, option = known["trainer"].get(key, neutral), f"trainer.{key}"
        if made.trainer.get(key, neutral) == was:
            continue
        if option not in typed:
            OmegaConf.update(made, option, was, force_add=True)
        else:
            raise _contradiction(typed[option], of, f"{option}={was if isinstance(was, str) else shown(was)}")


def _as_tuned(made: DictConfig, known: Mapping[str, Any]) -> DictConfig:
    """Return the options by which the artifact was made, its files where they are now."""
    tuned = deepcopy(made)
    for group in (group for group in FREE if group in known):
        OmegaConf.update(tuned, group, known[group], merge=False)
    return tuned


def _contradiction(word: str, of: Manifest, was: str) -> UserError:
    return UserError(f"{word} contradicts {of.name}, which was tuned with {was}; leave it out, or leave out scale_sets")


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
