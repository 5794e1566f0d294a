"""The schema: every option is declared and refuses wrong values; what decides an identity, and what does not."""

import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from omegaconf import OmegaConf

from quantbooth.calibration.sources import SOURCES
from quantbooth.data.photos import FITS
from quantbooth.export import files as exported
from quantbooth.kinds import Kind, one_of, shown
from quantbooth.quant.format import BITS
from quantbooth.run import calibration
from quantbooth.runtime.config import conf_dir
from quantbooth.runtime.errors import WrongOptions
from quantbooth.runtime.explain import explain
from quantbooth.runtime.options import mistakes, require_valid
from quantbooth.runtime.renamed import RENAMED
from quantbooth.schema import ANY, COMMANDS, FIELDS, content, trainer_content
from quantbooth.tuning import files

Tables = Mapping[str, Mapping[str, Any]]
INFINITY = float("inf")

TRAINER = {"accelerator": "cpu", "devices": 1, "precision": "32-true", "max_epochs": -1}


def test_addresses_of_code_never_decide() -> None:
    settings = {"tuner": {"learner": {"_target_": "here.Tuner", "inputs": True, "parts": [{"_target_": "b", "c": 1}]}}}
    assert content(settings, "tuner") == {"learner": {"inputs": True, "parts": [{"c": 1}]}}


def test_a_renamed_option_keeps_its_key_in_identities() -> None:
    settings = {"calibration": {"search": {"_target_": "here.MSEObserver", "lp_norm": 2.4, "points": 80}}}
    assert content(settings, "calibration") == {"search": {"norm": 2.4, "points": 80}}


def test_what_is_not_declared_decides() -> None:
    assert content({"sampler": {"eta": 0.5}}, "sampler") == {"eta": 0.5}


def test_a_group_that_decides_otherwise_has_no_content() -> None:
    with pytest.raises(KeyError, match="strategy"):
        content({"strategy": {"count": 3}}, "strategy")


def test_neutral_values_stay_out_and_others_do_not() -> None:
    for flip, found in ((False, {}), (True, {"random_flip": True}), (0, {"random_flip": 0})):
        assert content({"tuner": {"random_flip": flip}}, "tuner") == found


def test_neutral_values_of_a_group_in_a_group_stay_out() -> None:
    for size, found in ((None, {"inputs": True}), (16, {"inputs": True, "group_size": 16})):
        settings = {"tuner": {"learner": {"_target_": "here.Tuner", "inputs": True, "group_size": size}}}
        assert content(settings, "tuner") == {"learner": found}


def test_the_trainer_decides_by_what_it_computes() -> None:
    for added, computed, learned in (
        ({}, {}, {}),
        ({"devices": 4, "log_every_n_steps": 1}, {}, {}),
        ({"precision": "bf16-mixed"}, {"precision": "bf16-mixed"}, {"precision": "bf16-mixed"}),
        ({"gradient_clip_val": 1.0}, {}, {"gradient_clip_val": 1.0}),
        ({"gradient_clip_val": None, "accumulate_grad_batches": 1}, {}, {}),
        ({"deterministic": True}, {"deterministic": True}, {"deterministic": True}),
    ):
        settings = {"trainer": TRAINER | added}
        assert trainer_content(settings) == ({"trainer": computed} if computed else {})
        assert trainer_content(settings, training=True) == ({"trainer": learned} if learned else {})


def tables_of(config_name: str) -> Tables:
    return COMMANDS.get(config_name, FIELDS)


def written() -> Iterator[tuple[str, str, Any]]:
    """The config name, dotted key and value of every option in conf/, as written."""
    for file in sorted(conf_dir().rglob("*.yaml")):
        place = file.relative_to(conf_dir())
        node = yaml.safe_load(file.read_text())
        if len(place.parts) == 1:
            yield from leaves(file.stem, node, "")
        elif place.parts[0] in ("method", "experiment", "search", "preset"):
            yield from leaves("quantbooth", node, "")
        elif place.parts[0] == "lr_scheduler":
            yield from leaves("quantbooth", node, "tuner.")
        else:
            yield from leaves("quantbooth", node, f"{place.parts[0]}.")


def leaves(config_name: str, node: dict[str, Any], prefix: str) -> Iterator[tuple[str, str, Any]]:
    for key, value in node.items():
        if key.startswith("_") or key in ("defaults", "hydra"):
            continue
        if isinstance(value, dict):
            yield from leaves(config_name, value, f"{prefix}{key}.")
        else:
            yield config_name, f"{prefix}{key}", value


def declared(tables: Tables, option: str) -> Kind | None:
    """The kind of an option, found from the top; a group must be declared in the one around it."""
    *groups, name = option.split(".")
    table = ""
    for key in groups:
        found = key if key in tables[table] else ANY
        if found not in tables[table] or (table := f"{table}.{found}".removeprefix(".")) not in tables:
            return None
    field = tables[table].get(name) or tables[table].get(ANY)
    return None if field is None else field.kind


def test_every_option_in_conf_is_declared_and_allows_what_is_written() -> None:
    for config_name, option, value in written():
        kind = declared(tables_of(config_name), option)
        assert kind is not None, option
        assert value == "???" or "${" in str(value) or kind.holds(value), option


def nested(option: str, value: object) -> dict[str, Any]:
    """A configuration of one option."""
    for key in reversed(option.split(".")):
        value = {key: value}
    assert isinstance(value, dict)
    return value


def options() -> Iterator[tuple[str, str]]:
    """The config name and dotted key of every declared option that is no group."""
    for config_name, tables in {"quantbooth": FIELDS, **COMMANDS}.items():
        for group, fields in tables.items():
            names = [
                f"{group}.{key}".removeprefix(".") for key in fields if f"{group}.{key}".removeprefix(".") not in tables
            ]
            yield from (
                (config_name, name) for name in names if "a group of options" not in declared_text(tables, name)
            )


def declared_text(tables: Tables, option: str) -> str:
    kind = declared(tables, option)
    assert kind is not None, option
    return kind.allowed


@cache
def defaults() -> dict[tuple[str, str], list[Any]]:
    """The values of each option in conf/ that are no references."""
    found = defaultdict(list)
    for config_name, option, value in written():
        if value != "???" and "${" not in str(value):
            found["quantbooth" if tables_of(config_name) is FIELDS else config_name, option].append(value)
    return found


NOWHERE = (
    float("nan"),
    INFINITY,
    -INFINITY,
    10**400,
    -(10**10),
    -7500.5,
    "",
    "  ",
    {"a": 1},
    [{"a": 1}],
    [None],
    [INFINITY],
)
"""Values that no option allows."""
UNLIKE: dict[type, tuple[object, ...]] = {
    bool: (0, 1, "true", "yes", 0.5, [True], "100"),
    int: (True, "100", "a word", 0.5, [0.5], ["100"]),
    float: (True, "100", "a word", ["100"], [[1]]),
    str: (True, 3, 0.5, [3], ["a", 3]),
    list: (True, 3, "100" * 9, 0.5, [True], [[True]]),
}
"""Values that an option with a default of this type does not allow."""


def wrong_values(config_name: str, option: str) -> list[object]:
    """Return about ten wrong values, by what conf/ says of the option and not by its kind in the schema."""
    known = defaults().get((config_name, option), [])
    kinds = [set(map(repr, UNLIKE[type(value)])) for value in known if value is not None]
    every = {repr(value): value for values in UNLIKE.values() for value in values}
    shared = set.intersection(*kinds) if kinds else set()
    return [*NOWHERE, *(every[text] for text in shared), *([None] if known and None not in known else [])]


def test_wrong_values_are_refused_by_name_and_value_in_one_line() -> None:
    every = list(options())
    assert len(every) > 150
    for config_name, option in every:
        for value in wrong_values(config_name, option):
            found = mistakes(nested(option, value), tables_of(config_name))
            assert list(found) == [option], value
            line = found[option]
            assert line.startswith(f"{option} must be ") and line.endswith(f", got {shown(value)}"), line
            assert "\n" not in line


@pytest.mark.parametrize("command", ["tune", "report"])
def test_a_command_names_all_wrong_options_at_once_and_makes_nothing(command: str, tmp_path: Path) -> None:
    wrong = {
        "seed='100'": "seed must be .* got '100'",
        "subjects=3": "subjects must be .* got 3",
        "base.zones.content=[0,inf]": "base.zones.content must be .* got \\[0, inf\\]",
        "quant.bits=5": "quant.bits must be one of 2, 3, 4, 8, null, got 5",
        "calibration.search.points=1e9": "calibration.search.points must be .* got 1000000000.0",
        "tuner.learning_rate=nan": "tuner.learning_rate must be .* got nan",
        "tuner.steps=-1": "tuner.steps must be .* got -1",
        "+sampler.step=3": "unknown option 'sampler.step' \\(did you mean 'sampler.steps'\\?\\); .*",
        "trainer.devices=-1": "trainer.devices must be .* got -1",
        "paths.logs=null": "paths.logs must be .* got null",
        "protocol.batch=abc": "protocol.batch must be .* got 'abc'",
    }
    where = (f"paths.outputs={tmp_path}/out",)
    done = subprocess.run(
        [sys.executable, "-m", "quantbooth.programs", command, *wrong, *where],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    lines = done.stderr.splitlines()
    assert done.returncode == 2
    assert len(lines) == len(wrong), done.stderr
    for line, told in zip(lines, wrong.values(), strict=True):
        assert re.fullmatch(f"quantbooth: {told}", line), (line, told)
    assert list(tmp_path.iterdir()) == []


def test_a_copy_of_a_wrong_option_is_not_named_beside_it() -> None:
    cfg = OmegaConf.create({"tuner": {"learning_rate": -1, "name": "x"}, "optimizer": {"lr": "${tuner.learning_rate}"}})
    with pytest.raises(WrongOptions, match=r"^tuner\.learning_rate must be a finite number >= 0, got -1$"):
        require_valid(cfg)
    with pytest.raises(WrongOptions, match=r"^optimizer\.lr must be a finite number >= 0, got 'x'$"):
        require_valid(OmegaConf.merge(cfg, {"tuner": {"learning_rate": 1}, "optimizer": {"lr": "${tuner.name}"}}))  # type: ignore[arg-type]


def test_an_option_without_a_value_is_left_to_the_command_that_needs_it() -> None:
    require_valid(OmegaConf.create({"base": {"path": "???", "folder": {"path": "${base.path}"}}}))


def test_options_of_a_class_that_is_not_ours_are_its_own() -> None:
    node = {"_target_": "mine.Locator", "threshold": "high", "more": 1}
    assert mistakes({"locator": node}) == {}
    assert list(mistakes({"locator": node | {"_target_": "quantbooth.Locator"}})) == [
        "locator.threshold",
        "locator.more",
    ]
    assert mistakes({"optimizer": {"momentum": 0.9}}) == {}


def test_each_wrong_option_has_a_line_of_its_own() -> None:
    assert explain(WrongOptions(["one", "two"])) == "one\ntwo"


def test_former_names_are_answered_at_their_place() -> None:
    for old, new in RENAMED.items():
        assert mistakes(nested(old, 3)) == {old: f"option '{old}' has another name: {new}"}


@pytest.mark.parametrize(
    ("config_name", "overrides"),
    [
        *(("quantbooth", (f"method={file.stem}",)) for file in sorted((conf_dir() / "method").glob("*.yaml"))),
        *(("quantbooth", (f"experiment={file.stem}",)) for file in sorted((conf_dir() / "experiment").glob("*.yaml"))),
        *((name, ()) for name in ("degradation", "probe", "data", "pretrain")),
        ("pretrain", ("model=toy_flow",)),
        ("quantbooth", ("base=sd15", "subject=folder", "strategy=s2_snr", "locator=attention", "scorer=clip_b32")),
        ("quantbooth", ("locator=owlv2", "dino=dinov2_b", "calibration=qdiffusion", "quant=w4a8", "tag=0.1")),
        ("quantbooth", ("subjects=[toy_mug,toy_duck]", "prompt=[a dog,a cat]", "lora=[x.safetensors:0.5]")),
        ("quantbooth", ("trainer=gpu", "trainer.devices=[1]", "protocol.batch=auto", "sampler.guidance=5")),
    ],
)
def test_what_is_in_conf_is_valid(config_name: str, overrides: tuple[str, ...]) -> None:
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        require_valid(hydra.compose(config_name, list(overrides)), config_name)


def test_choices_in_the_schema_are_those_that_the_code_has() -> None:
    for option, choices in (
        ("quant.bits", (*BITS, None)),
        ("calibration.set.source", SOURCES),
        ("trainer.precision", calibration.PRECISIONS),
        ("resources.save_dtype", files.PRECISIONS),
        ("export.precision", exported.PRECISIONS),
        ("subject.fit", FITS),
    ):
        assert declared_text(FIELDS, option) == one_of(*choices).allowed
