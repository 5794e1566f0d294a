"""Building objects from configs: the right class or one clear sentence; plain values; the config folder."""

import re
from collections import Counter, OrderedDict
from fractions import Fraction
from pathlib import Path

import pytest
import yaml
from hydra.errors import InstantiationException
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from quantbooth.runtime import config
from quantbooth.runtime.config import build, conf_dir, plain, save
from quantbooth.runtime.errors import UserError


@pytest.fixture(autouse=True)
def _trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(config.TRUST, f"collections,fractions,{__name__},quantbooth")


def refuse(bits: int) -> None:
    raise UserError(f"bits must be one of 2, 3, 4, 8, got {bits}")


def refuse_elsewhere() -> None:
    raise UserError("interval must lie in [0, 1000), got 1000 from strategy.interval")


def node(**keys: object) -> DictConfig:
    return OmegaConf.create({"quant": keys}).quant


def test_build_makes_what_the_node_names_from_plain_arguments() -> None:
    made = build(node(_target_="collections.OrderedDict", sizes=[1, 2], extra={"a": 1}), OrderedDict, more=[3])
    assert made == {"sizes": [1, 2], "extra": {"a": 1}, "more": [3]}
    assert [type(value) for value in made.values()] == [list, dict, list]


def test_build_refuses_another_kind() -> None:
    with pytest.raises(UserError, match=r"^quant must be a Counter, got a Fraction from fractions.Fraction$"):
        build(node(_target_="fractions.Fraction", numerator=1), Counter)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (node(bits=4), "quant must name a Counter by _target_, got only bits"),
        (None, "the config must name a Counter by _target_, got None"),
    ],
)
def test_build_needs_a_target(bad: DictConfig, message: str) -> None:
    with pytest.raises(UserError) as caught:
        build(bad, Counter)
    assert str(caught.value) == message


def test_a_refusal_of_the_constructor_names_the_key_it_came_from() -> None:
    with pytest.raises(UserError, match=r"^bits must be one of 2, 3, 4, 8, got 5, from quant$"):
        build(node(_target_=f"{__name__}.refuse", bits=5), Counter)


def test_a_refusal_that_names_a_key_already_is_left_alone() -> None:
    strategy = OmegaConf.create({"strategy": {"_target_": f"{__name__}.refuse_elsewhere"}}).strategy
    with pytest.raises(UserError, match=r"got 1000 from strategy.interval$"):
        build(strategy, Counter)


def test_a_refusal_inside_a_nested_node_names_the_inner_key() -> None:
    nested = node(_target_="collections.OrderedDict", grid={"_target_": f"{__name__}.refuse", "bits": 5})
    with pytest.raises(UserError, match=r"got 5, from quant\.grid$"):
        build(nested, OrderedDict)


def test_wrong_arguments_are_the_users_to_mend() -> None:
    with pytest.raises(UserError, match=r"^unknown option 'quant\.numerater'; fractions\.Fraction does not take it$"):
        build(node(_target_="fractions.Fraction", numerater=1), Fraction)


def test_a_target_that_does_not_exist_is_the_users_to_mend() -> None:
    with pytest.raises(UserError, match=r"^cannot build quantbooth\.nowhere\.Thing: .*, from quant$"):
        build(node(_target_="quantbooth.nowhere.Thing"), Fraction)


FOREIGN = [
    "os.system",
    "torch.load",
    "pandas.read_pickle",
    "psutil.Popen",
    "shutil.copy",
    "urllib.request.urlretrieve",
    "builtins.eval",
    "hydra.utils.instantiate",
    "quantbooth.store.store.shutil.rmtree",
    "quantbooth.runtime.cli.os.system",
    "quantbooth.commands.verify.repair",
    "lightning.pytorch.loggers.wandb.os.remove",
    "lightning.pytorch.Trainer",
]


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("target", FOREIGN)
def test_a_foreign_target_is_refused_and_not_called(target: str, inside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(config.TRUST)
    called: list[object] = []
    monkeypatch.setattr("hydra.utils.instantiate", lambda *_, **__: called.append(1))
    foreign = {"_target_": target, "path": "x"}
    ours = {"_target_": "quantbooth.diffusion.sampler.Sampler", "scheduler": [{"deep": foreign}]}
    option = "quant.scheduler.0.deep" if inside else "quant"
    with pytest.raises(UserError, match=rf"^{re.escape(option)}\._target_ must be .*, got {re.escape(target)}; "):
        build(node(**(ours if inside else foreign)), Counter)
    assert called == []


def test_a_trusted_package_does_not_lend_its_trust_to_what_it_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(config.TRUST, "quantbooth.runtime")
    with pytest.raises(UserError, match="got quantbooth.runtime.cli.os.system"):
        build(node(_target_="quantbooth.runtime.cli.os.system", command="true"), Counter)


def test_loggers_of_lightning_are_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(config.TRUST)
    made = build(node(_target_="lightning.pytorch.loggers.CSVLogger", save_dir=str(tmp_path)), Logger)
    assert type(made).__name__ == "CSVLogger"


def test_a_defect_inside_a_constructor_stays_a_defect() -> None:
    with pytest.raises((InstantiationException, ZeroDivisionError)) as caught:
        build(node(_target_="fractions.Fraction", numerator=1, denominator=0), Fraction)
    assert isinstance(caught.value.__cause__ or caught.value, ZeroDivisionError)


def test_plain_resolves_everything() -> None:
    cfg = OmegaConf.create({"a": {"b": [1, "${c}"]}, "c": 2})
    assert plain(cfg) == {"a": {"b": [1, 2]}, "c": 2}
    assert type(plain(cfg)["a"]) is dict


def test_plain_refuses_a_missing_value() -> None:
    with pytest.raises(MissingMandatoryValue, match=r"subject\.path"):
        plain(OmegaConf.create({"subject": {"path": "???"}}))


def test_save_writes_what_plain_gives(tmp_path: Path) -> None:
    cfg = OmegaConf.create({"zeta": 1e-05, "alpha": ["${zeta}", None, True, "ü"]})
    save(cfg, tmp_path / "config.yaml")
    text = (tmp_path / "config.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text) == plain(cfg)
    assert text.index("zeta") < text.index("alpha")


def test_conf_dir_prefers_the_packaged_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "src" / "quantbooth"
    package.mkdir(parents=True)
    monkeypatch.setattr(config, "__file__", str(package / "runtime" / "config.py"))
    with pytest.raises(UserError, match=r"the configuration must be in .* found neither"):
        conf_dir()
    (tmp_path / "conf").mkdir()
    assert conf_dir() == tmp_path / "conf"
    (package / "conf").mkdir()
    assert conf_dir() == package / "conf"
