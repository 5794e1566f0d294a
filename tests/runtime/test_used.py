"""Options that a command has no use for are refused where they are another's, and named where runs are told by them."""

import pytest

from quantbooth import programs
from quantbooth.commands import evaluate, export, report, tune
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.used import name_unused, require_own
from quantbooth.schema import FIELDS


@pytest.mark.parametrize(
    ("command", "word"),
    [
        *((command, "prompt=hello") for command in ("tune", "evaluate", "report", "calibrate", "export", "pipeline")),
        *((command, "scale_sets=DIR") for command in ("tune", "pipeline", "report", "degradation")),
        *((command, "pictures=DIR") for command in ("tune", "export", "probe")),
        *((command, "export.format=lora") for command in ("evaluate", "report", "sample", "pipeline")),
        *((command, "++report.folder=DIR") for command in ("export", "evaluate", "tune")),
    ],
)
def test_an_option_of_another_command_is_refused(command: str, word: str) -> None:
    with pytest.raises(UserError) as caught:
        require_own(["seed=1", word], command)
    assert word in str(caught.value) and "is an option of quantbooth" in str(caught.value)


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ("sample", "prompt=hello export.format=lora"),
        ("export", "export.step=0"),
        ("report", "report.scores=[x]"),
        ("pipeline", "report.folder=DIR"),
        ("tune", "prior.class_prompts=[a]"),
    ],
)
def test_own_options_are_taken(command: str, word: str) -> None:
    require_own([word], command)


def test_a_command_refuses_another_ones_option_before_its_code_is_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["quantbooth-evaluate", "report.folder=DIR"])
    with pytest.raises(SystemExit, match="2"):
        programs.evaluate()
    assert capsys.readouterr().err.startswith("quantbooth: report.folder=DIR has no effect on quantbooth-evaluate")


@pytest.mark.parametrize("unused", [export.UNUSED, evaluate.UNUSED, tune.UNUSED, report.OF_RUNS])
def test_what_is_not_used_are_options(unused: tuple[str, ...]) -> None:
    for option in unused:
        group, _, key = option.rpartition(".")
        assert option == "method" or key in FIELDS[group]


def test_what_is_not_used_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "-m",
        "sampler.steps=9",
        "sampler=ddim",
        "~logger.wandb.project",
        "protocol.seeds=[1]",
        "protocol.eval_steps=[1]",
    ]
    name_unused([*words, "samplers=1"], export.UNUSED, "by export")
    assert capsys.readouterr().err == "not used by export: sampler.steps=9, sampler=ddim, protocol.seeds=[1]\n"
    name_unused(["subject=toy_mug"], export.UNUSED, "by export")
    assert capsys.readouterr().err == ""
