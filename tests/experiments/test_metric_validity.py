"""The validity of metrics: correlations worked by hand, within subjects, with their intervals; real scores read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from composing import composed
from experiments import metric_validity
from experiments.metric_validity import Scored, main, scored, tables, variants_of, wide
from experiments.rank_correlation import Variant, correlations, differences_table, over_subjects, validity_table
from experiments.validity_plot import shortly
from quantbooth.commands import pipeline
from quantbooth.commands.report import read_result
from quantbooth.evaluation.files import Record
from quantbooth.runtime.errors import UserError

LOCAL = Variant("local CLIP-I", "an encoder on regions", "oracle_subject", "local")
PLAIN = Variant("CLIP-I", "an encoder", "oracle_subject", "plain")


def frame(**columns: list[float]) -> pd.DataFrame:
    """Two subjects of four pictures each, in two settings."""
    about = {
        "subject": ["a"] * 4 + ["b"] * 4,
        "method": ["s1", "s1", "s2", "s2"] * 2,
        "setting": ["x", "x", "y", "y"] * 2,
    }
    return pd.DataFrame({**about, **columns})


def test_ranks_are_compared_within_each_subject() -> None:
    """Over both subjects together the order would be perfect; within them it is perfect and reversed."""
    made = frame(local=[1, 2, 3, 4, 14, 13, 12, 11], oracle_subject=[0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9])
    found = correlations(made, LOCAL, "image")
    assert found == pytest.approx({"a": 1.0, "b": -1.0})
    mean, interval = over_subjects(found)
    assert mean == 0 and interval is not None and (interval.low, interval.high) == (-1, 1)


def test_a_correlation_worked_by_hand() -> None:
    """Ranks 1 2 3 4 against 2 1 4 3: d = 1 each, rho = 1 - 6 * 4 / (4 * 15) = 0.6."""
    made = frame(local=[1, 2, 3, 4] * 2, oracle_subject=[0.2, 0.1, 0.9, 0.5] * 2)
    assert correlations(made, LOCAL, "image") == pytest.approx({"a": 0.6, "b": 0.6})


def test_settings_are_compared_by_their_means_and_pictures_without_truth_are_left_out() -> None:
    rows = []
    for setting, (values, truths) in {
        "x": ([1, 9], [0.1, 0.3]),
        "y": ([6, 2], [0.5, 0.7]),
        "z": ([8, 8], [0.4, np.nan]),
    }.items():
        rows += [
            {"subject": "a", "setting": setting, "local": v, "oracle_subject": t}
            for v, t in zip(values, truths, strict=True)
        ]
    # means: x 5, 0.2; y 4, 0.6; z 8 (of the known one), 0.4: ranks 2 1 3 against 1 3 2, rho = 1 - 6 * 6 / 24 = -0.5
    assert correlations(pd.DataFrame(rows), LOCAL, "setting") == pytest.approx({"a": -0.5})


def test_what_has_no_ranks_is_left_out() -> None:
    made = frame(local=[1, 1, 1, 1, 1, 2, 3, 4], oracle_subject=[0.1, 0.2, 0.3, 0.4] * 2)
    assert correlations(made, LOCAL, "image") == pytest.approx({"b": 1.0})
    assert correlations(made, LOCAL, "setting") == {}  # two settings have no order to speak of
    mean, interval = over_subjects({})
    assert np.isnan(mean) and interval is None


def test_tables_show_both_levels_and_what_local_adds() -> None:
    made = frame(
        local=[1, 2, 3, 4] * 2, plain=[1, 2, 4, 3, 2, 1, 4, 3], oracle_subject=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    )
    assert validity_table(made, [LOCAL]).splitlines()[2] == (
        "| local CLIP-I | an encoder on regions | oracle_subject | 1.00 [1.00, 1.00] | – | 2 |"
    )
    assert differences_table(made, PLAIN, [LOCAL]).splitlines()[2] == (
        "| local CLIP-I | an encoder on regions | +0.30 [+0.20, +0.40] | – |"
    )


def made_up(setting: int, subject: str, oracle: str = "an oracle", base: str = "toy") -> Scored:
    """Six pictures whose metrics follow the truth but for noise."""
    record = Record(
        "s1", subject, "w4", 0, setting, base, "a scorer", "quick", {}, f"image_set/{subject}-{setting}", "run"
    )
    draw, rows = np.random.default_rng([setting, len(subject)]), []
    for number in range(6):
        truth = draw.random() + setting
        metrics = {"clip_t": truth, "clip_i": draw.random(), "local_clip_i": truth + 0.3 * draw.random()}
        for metric, value in {**metrics, "oracle_subject": truth, "oracle_prompt": truth}.items():
            with_ = oracle if metric.startswith("oracle") else "an encoder"
            rows.append({"file": f"{number}.png", "metric": metric, "value": value, "measured_with": with_})
    return Scored(record, Path(record.images), pd.DataFrame(rows))


def test_files_tell_each_variant_and_the_plot_has_a_point_for_each_setting() -> None:
    found = [made_up(setting, subject) for setting in range(4) for subject in ("rex", "minka")]
    made = tables(found)
    assert set(made) == {"validity.md", "differences.md", "scatter.svg", "about.md"}
    rows = made["validity.md"].splitlines()
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| CLIP-T", "| CLIP-I", "| local CLIP-I"]
    assert "1.00 [1.00, 1.00] | 1.00 [1.00, 1.00] | 2 |" in rows[2]
    assert made["about.md"].startswith("48 pictures of 2 subjects in 4 settings; base toy, protocol quick. ")
    assert made["scatter.svg"].startswith("<svg") and "CLIP-T against oracle_prompt" in made["scatter.svg"]
    assert len(wide(found)) == 48
    assert tables(found) == made  # the same bytes again


def test_a_panel_is_named_by_its_locator() -> None:
    local = Variant("local CLIP-I", "a scorer: the same on regions by toy locator af41, at least 24 px", "", "")
    assert shortly(local) == "local CLIP-I, toy locator"
    assert (
        shortly(replace(local, measured_with=f"{local.measured_with}, background grey"))
        == "local CLIP-I, toy locator, grey"
    )
    assert shortly(PLAIN) == "CLIP-I"


def test_scores_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one oracle must tell the truth, got an oracle, another"):
        variants_of([made_up(0, "rex"), made_up(1, "rex", oracle="another")])
    lacking = made_up(0, "rex")
    without = Scored(lacking.record, lacking.images, lacking.rows[lacking.rows["metric"] != "oracle_prompt"])
    with pytest.raises(UserError, match=r"the truth must be known, these scores lack oracle_prompt; take a toy base"):
        variants_of([without])
    with pytest.raises(UserError, match="^no scores in "):
        scored([tmp_path])


def test_scores_of_one_base_are_compared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = iter([made_up(0, "rex"), made_up(1, "rex", base="sd15")])
    monkeypatch.setattr(metric_validity, "_read", lambda _folder: next(made))
    with pytest.raises(UserError, match=r"^scores of one base are compared, got sd15, toy; give them apart$"):
        scored([tmp_path / "one", tmp_path / "other"])


@pytest.mark.chain
def test_a_store_is_read_and_its_pictures_scored_with_other_locators(
    base_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("base=folder", f"base.path={base_folder}", "base.resolution=32", "calibration=minmax", "sampler.steps=1")
    few = (
        "prior=none",
        "tuner.steps=2",
        "preview.validation_steps=0",
        "protocol.prompt_stride=5",
        "protocol.eval_steps=[1]",
    )
    cfg = composed(*words, *few, f"paths.outputs={tmp_path}/out", "protocol.prior_prompts=2")
    scores = pipeline.job(cfg)
    arguments = [f"{tmp_path}/out/store", "--folder", f"{tmp_path}/made"]
    assert main([*arguments, "--locators", "whole", "toy-grey"]) == 0
    table = (tmp_path / "made" / "validity.md").read_text()
    assert table.count("| local CLIP-I |") == 3  # as scored, whole, background grey
    assert "regions by whole image |" in table and ", background grey |" in table
    assert "15 pictures of 1 subjects in 3 settings" in (tmp_path / "made" / "about.md").read_text()
    result = read_result(scores[0])
    found = [one for one in scored([scores[0]]) if one.record.step == 0]
    (again,) = metric_validity.rescored(found[0], ["whole"])
    own = result.rows[result.rows["kind"] != "unrelated"]
    assert again.rows["value"].tolist() == pytest.approx(own["clip_i"].tolist(), abs=1e-6)
    assert main([*arguments, "--locators", "whole-grey"]) == 2
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .startswith("metric_validity: scorer.mask_background=true needs a locator")
    )
    assert main([*arguments, "--locators", "nose"]) == 2
    assert "a locator must be one of attention, clipseg, owlv2, toy, whole" in capsys.readouterr().err
