"""Configs of a given folder are data: nothing of the environment is read, and Hydra is not set up by them."""

from argparse import Namespace
from pathlib import Path

import pytest
import yaml

from quantbooth.runtime.config import conf_dir
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.given import require_data

NONE = Namespace(config_dir=None, config_path=None, config_name=None, experimental_rerun=None)


def given(folder: Path, text: str, name: str = "config.yaml") -> Namespace:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return Namespace(**{**vars(NONE), "config_dir": str(folder)})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("paths: {store: '${oc.env:HOME}'}", "oc.env"),
        ("a: [x, {b: 'in ${ oc.env : HOME }'}]", "oc.env"),
        ("${oc.env:HOME}: 1", "oc.env"),
        ("a: ${oc.decode:${b}}\nb: '${oc.env:HOME}'", "oc."),
        ("a: ${oc.create:${b}}\nb: x", "oc.create"),
        ("a: ${${b}:HOME}\nb: oc.env", ":HOME"),
        ("a: ${oc.${b}:HOME}\nb: env", ":HOME"),
        ("a: ${hydra:job.env_copy}", "hydra:job.env_copy"),
        ("base: &x {path: '${oc.env:HOME}'}\n<<: *x", "oc.env"),
        ("hydra: {job: {env_set: {QUANTBOOTH_TRUST: os}}}", "hydra.job"),
        ("hydra: {launcher: {_target_: os.system}}", "hydra.launcher"),
        ("hydra: {mode: MULTIRUN, sweeper: {_target_: os.system, params: {}}}", "hydra.sweeper"),
        ("hydra: {mode: MULTIRUN, sweeper: {params: {hydra.job.env_set.A: b}}}", "hydra.sweeper.params.hydra.job"),
        ("hydra: [1]", "hydra"),
        ("x: &x {hydra: {job: {name: a}}}\n<<: *x", "hydra.job"),
        ("# @package hydra.job\nenv_set: {A: b}", "@package|package hydra.job"),
        ("defaults: [override hydra/launcher: evil]", "hydra/launcher"),
        ("defaults: [evil@hydra.launcher: evil]", "hydra.launcher"),
        ("a: [", "must be a config"),
    ],
)
def test_what_is_more_than_data_is_refused_by_name(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        require_data(given(tmp_path, text))
    assert str(tmp_path / "config.yaml") in str(caught.value)


@pytest.mark.parametrize("name", ["subject/rex.yaml", "experiment/deep/mine.yaml"])
def test_every_file_of_the_folder_is_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=name):
        require_data(given(tmp_path, "a: ${oc.env:HOME}", name))


def test_a_folder_of_hydra_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="hydra/launcher/mine.yaml"):
        require_data(given(tmp_path, "a: 1", "hydra/launcher/mine.yaml"))


@pytest.mark.parametrize(
    "text",
    [
        "seed: 0\nprompt: 'costs $5 {} and ${base.path}/${subject.names[0]}'",
        yaml.safe_dump({"a": {"hydra_of_lerna": "a hydra"}}),
        (conf_dir() / "experiment" / "demo.yaml").read_text(),
        "",
    ],
)
def test_values_references_to_options_and_sweeps_are_data(tmp_path: Path, text: str) -> None:
    require_data(given(tmp_path, text))


def test_hidden_folders_are_not_read(tmp_path: Path) -> None:
    require_data(given(tmp_path, "a: ${{ github.x }}", ".github/workflow.yaml"))


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("experimental_rerun", "config.pickle"),
        ("config_path", "/a"),
        ("config_name", "../a/config"),
        ("config_name", "/a/config"),
    ],
)
def test_flags_that_read_elsewhere_are_refused(flag: str, value: str) -> None:
    with pytest.raises(UserError, match=f"--{flag.replace('_', '-')}"):
        require_data(Namespace(**{**vars(NONE), flag: value}))
