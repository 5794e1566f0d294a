"""The report of a store: what it reads beside scores, what it says is missing, what it hands to a tracker."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
import yaml
from omegaconf import DictConfig
from PIL import Image

from artifacts import seal
from composing import composed
from quantbooth.commands.report import method_styles, read_result, report, unscored
from quantbooth.evaluation.files import Record, write_scores
from quantbooth.run.run import Run
from quantbooth.runtime.config import conf_dir, plain
from quantbooth.runtime.errors import UserError
from quantbooth.sampling.image_set import Request, write_requests
from quantbooth.store.manifest import FORMAT, Manifest
from quantbooth.timesteps.samplers import listed
from quantbooth.timesteps.strategies import Strategy, baseline, s1
from quantbooth.tuning.files import write_snapshot
from wandb_files import records

PROMPTS = (("a sks mug on the beach", "context"), ("a sks mug", "plain"))
STRATEGIES = {"baseline": baseline(1000), "s1": s1([200, 750], "base", 1000)}
Configure = Callable[..., DictConfig]


def _artifact(folder: Path, kind: str, parents: dict[str, str], contents: Mapping[str, object] | None = None) -> Path:
    folder.mkdir(parents=True)
    manifest = Manifest(kind, FORMAT, folder.name, "f" * 64, parents, dict(contents or {}), "0", {})
    (folder / "manifest.json").write_text(manifest.to_json())
    return folder


def _tuned(store: Path, run: str, strategy: Strategy, steps: tuple[int, ...] = (1, 2)) -> None:
    contents = {"strategy": strategy.describe()}
    folder = _artifact(store / "scale_sets" / run, "scale_sets", {"quantized_base": "a" * 64}, contents)
    for step in steps:
        write_snapshot(folder, step, {"gain": torch.ones(2)})
    seal(folder)


def _scores(store: Path, method: str, step: int, base: str = "a" * 64) -> Path:
    name, run = f"mug-{method}-step{step}", f"mug-{method}" if step else "toy-w4"
    images = _artifact(store / "image_set" / name, "image_set", {"quantized_base": base})
    rows = []
    for folder, count in ((images, len(PROMPTS)), (images / "references", 2)):
        folder.mkdir(exist_ok=True)
        for k in range(count):
            Image.fromarray(np.full((32, 32, 3), 50 * k, dtype=np.uint8)).save(folder / f"{k}.png")
    texts = [prompt.replace("sks ", "") for prompt, _ in PROMPTS]
    asked = [Request(f"{k}.png", p, texts[k], p, kind, 0) for k, (p, kind) in enumerate(PROMPTS)]
    write_requests(images, asked)
    for k, (prompt, kind) in enumerate(PROMPTS):
        scores = {"clip_t": 0.3 - step / 100, "clip_i": 0.5, "local_clip_i": 0.5 + step / 10, "subject_found": 1}
        rows.append({"prompt": prompt, "kind": kind, "noise_seed": 0, "file": f"{k}.png", **scores})
    folder = _artifact(store / "scores" / name, "scores", {"images": "f" * 64})
    costs = {"trainable": 10.0} if step else {}
    setting = (method, "mug", "w4", 0, step, "toy", "toy scorer", "quick", costs, f"image_set/{name}", run)
    write_scores(folder, Record(*setting), rows, dict.fromkeys(scores, "toy scorer"))
    seal(images)
    seal(folder)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The base, the baseline at both steps it kept, S1 at the first of two."""
    for method, strategy in STRATEGIES.items():
        _tuned(tmp_path / "store", f"mug-{method}", strategy)
    for method, step in (("base", 0), ("baseline", 1), ("baseline", 2), ("s1", 1)):
        _scores(tmp_path / "store", method, step)
    return tmp_path / "store"


@pytest.fixture
def configure(tmp_path: Path) -> Configure:
    def make(*overrides: str) -> DictConfig:
        return composed(f"paths.outputs={tmp_path}", *overrides)

    return make


def test_scores_come_with_the_strategy_the_last_step_and_the_base_they_belong_to(store: Path) -> None:
    found = read_result(store / "scores" / "mug-s1-step1")
    assert found.strategy == STRATEGIES["s1"] and found.kept_until == 2 and found.weights == "a" * 64
    assert found.references == store / "image_set" / "mug-s1-step1" / "references"
    untuned = read_result(store / "scores" / "mug-base-step0")
    assert untuned.strategy is None and untuned.kept_until is None and untuned.weights == "a" * 64


def test_scores_come_with_the_timesteps_of_training_and_of_the_pictures(store: Path, configure: Configure) -> None:
    scores, images = (store / kind / "mug-s1-step1" for kind in ("scores", "image_set"))
    assert (read_result(scores).density, read_result(scores).sampled) == (None, ())
    weights = store.parent / "weights.json"
    weights.write_text(json.dumps([1] * 500 + [2] * 500))
    words = ("strategy=s1", "timesteps=file", f"timesteps.path={weights}")
    (scores / "config.yaml").write_text(yaml.safe_dump(plain(configure(*words))))
    drawn = {"name": "file", "weights": listed(str(weights), "reject").describe()["weights"], "within": "reject"}
    seal(images, contents={"timesteps": [981.0, 481.0]})
    seal(store / "scale_sets" / "mug-s1", contents={"strategy": STRATEGIES["s1"].describe(), "timesteps": drawn})
    seal(scores)
    found = read_result(scores)
    assert (found.density, found.sampled) == (listed(str(weights), "reject"), (981.0, 481.0))
    weights.write_text(json.dumps([2] * 500 + [1] * 500))
    assert read_result(scores).density is None
    weights.unlink()
    assert read_result(scores).density is None


def test_scores_whose_run_is_gone_are_reported_all_the_same(store: Path) -> None:
    (store / "scale_sets").rename(store / "elsewhere")
    found = read_result(store / "scores" / "mug-s1-step1")
    assert found.strategy is None and found.kept_until is None


def test_scores_whose_pictures_are_not_kept_have_the_same_table_and_say_so(
    store: Path, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    def made(name: str) -> tuple[str, str, str]:
        folder = report(configure(f"report.scores=[{store}/scores]", f"report.folder={store.parent}/{name}"))
        return (folder / "table.csv").read_text(), (folder / "index.html").read_text(), capsys.readouterr().out

    whole, page, said = made("whole")
    assert "not kept" not in page + said and "data:image/" in page
    shutil.rmtree(store / "image_set" / "mug-s1-step1")
    assert "The pictures of 1 of 4 scores are not kept" in made("part")[2]
    shutil.rmtree(store / "image_set")
    table, page, said = made("none")
    assert table == whole and "data:image/" not in page
    assert all("The pictures of 4 of 4 scores are not kept" in each for each in (page, said))


def test_an_unfinished_store_is_reported_and_says_what_is_missing(
    store: Path, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    _tuned(store, "mug-s2", STRATEGIES["baseline"])
    folder = report(configure(f"report.scores=[{store}/scores]"))
    page = (folder / "index.html").read_text()
    assert "<li>s1 lacks mug step 2 (only 1 is scored)</li>" in page
    assert "<li>mug-s2 is tuned and not scored</li>" in page
    assert "learned in [200, 750) of 1,000 timesteps; elsewhere the base" in page
    said = capsys.readouterr().out
    assert "tuned and not scored: mug-s2" in said and "the page: " in said


def test_named_scores_alone_say_nothing_of_other_runs(store: Path) -> None:
    named = [store / "scores" / "mug-baseline-step2"]
    results = [read_result(folder) for folder in named]
    assert unscored(named, results) == []
    assert unscored([store / "scores"], results) == ["mug-s1"]


def test_scores_over_another_quantized_base_are_refused(store: Path, configure: Configure) -> None:
    other = _scores(store, "s2", 2, base="b" * 64)
    with pytest.raises(UserError, match="one quantized base for w4, got aaaaaaaa .* and bbbbbbbb"):
        report(configure(f"report.scores=[{store}/scores/mug-baseline-step2,{other}]"))


def test_an_empty_folder_is_refused(tmp_path: Path, configure: Configure) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match="must hold scores, found a folder without manifest.json"):
        report(configure(f"report.scores=[{tmp_path}/nothing]"))


def test_with_wandb_the_report_is_an_artifact_of_an_offline_run(
    store: Path, configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    folder = report(configure(f"report.scores=[{store}/scores]", "logger=wandb"))
    (record,) = tmp_path.rglob("run-*.wandb")
    data = b"".join(records(record.read_bytes()))  # names may lie across the blocks of the file
    assert all(file.name.encode() in data for file in folder.iterdir())


def test_each_run_is_told_with_the_command_that_makes_it_alone(store: Path, configure: Configure) -> None:
    for name in ("mug-baseline-step1", "mug-baseline-step2", "mug-base-step0"):
        (store / "scores" / name / "config.yaml").write_text("seed: 0\n")
        seal(store / "scores" / name)
    page = (report(configure(f"report.scores=[{store}/scores]")) / "index.html").read_text()
    command = f"quantbooth --config-dir {store}/scores/mug-baseline-step2 --config-name config"
    assert page.count(f"<code>{command}</code>") == 1 == page.count("--config-dir")


def test_a_kept_setting_composes_to_itself(store: Path, configure: Configure) -> None:
    cfg = configure("strategy=s1", "strategy.interval=[0,200]", "subject=toy_duck", "seed=3")
    (store / "config.yaml").write_text(yaml.safe_dump(plain(cfg)))
    with hydra.initialize_config_dir(str(store), version_base="1.3"):
        again = hydra.compose("config")
    assert plain(again) == plain(cfg)
    assert Run(again).only.tuned.identity == Run(cfg).only.tuned.identity


def test_an_interval_sweep_is_reported_without_a_tag(store: Path, configure: Configure) -> None:
    named = []
    for interval in ("[0,200]", "[200,750]"):
        named.append(_scores(store, f"s1-of-{interval[1:2]}", 1))
        cfg = configure("strategy=s1", f"strategy.interval={interval}")
        (named[-1] / "config.yaml").write_text(yaml.safe_dump(plain(cfg)))
        record = json.loads((named[-1] / "record.json").read_text()) | {"method": "s1"}
        (named[-1] / "record.json").write_text(json.dumps(record))
        seal(named[-1])
    folder = report(configure(f"report.scores=[{','.join(map(str, named))}]"))
    rows = [line.split(" | ")[0] for line in (folder / "table.md").read_text().splitlines() if line.startswith("| s1")]
    assert rows == ["| s1 interval=[0,200]", "| s1 interval=[200,750]"]


def test_a_row_that_lacks_something_is_named_where_others_should_be_compared_with_it(
    store: Path, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = [store / "scores" / f"mug-baseline-step{step}" for step in (1, 2)]
    for given, told in ((steps[:1], True), (steps, False)):
        report(configure(f"report.scores=[{','.join(map(str, given))}]", "report.compare_with=[baseline]"))
        assert ("nothing is compared with it: baseline" in capsys.readouterr().out) == told


def test_each_report_has_a_folder_of_its_own_and_the_same_report_the_same(store: Path, configure: Configure) -> None:
    one, two = (store / "scores" / f"mug-baseline-step{step}" for step in (1, 2))
    first, second, again = (report(configure(f"report.scores=[{scores}]")) for scores in (one, two, one))
    assert first == again != second and first.parent == second.parent == store.parent / "reports"
    assert all(part in first.name for part in ("toy", "mug", "baseline"))
    given = report(configure(f"report.scores=[{one}]", f"report.folder={store.parent}/mine"))
    assert given == store.parent / "mine" and (given / "index.html").is_file()


def test_the_page_says_when_by_what_and_how_the_loss_went(store: Path, configure: Configure) -> None:
    logged = store.parent / "logs" / "csv" / "mug-baseline" / "metrics.csv"
    logged.parent.mkdir(parents=True)
    logged.write_text("epoch,step,tune/loss,other\n0,0,0.5,\n0,1,0.25,\n0,1,,3\n")
    assert read_result(store / "scores" / "mug-baseline-step2", store.parent / "logs").loss == ((0, 0.5), (1, 0.25))
    folder = report(configure(f"report.scores=[{store}/scores]"))
    page = (folder / "index.html").read_text()
    assert all(name in page for name in ("quantbooth 0", "torch 2", "diffusers 0", "lightning 2", "loss.svg"))
    assert "a mug on the beach" in page and "a sks mug on the beach" not in page


@pytest.mark.chain
def test_every_method_has_a_look_that_enters_no_identity(configure: Configure) -> None:
    files = sorted((conf_dir() / "method").glob("*.yaml"))
    assert set(method_styles()) == {file.stem for file in files}
    for file in files:
        cfg = configure(f"method={file.stem}")
        assert cfg.method_style.label == method_styles()[file.stem].label
        run = Run(cfg)
        assert run.method == file.stem
        identity = run.only.tuned.identity
        del cfg.method_style
        assert Run(cfg).only.tuned.identity == identity


def test_intervals_of_a_sweep_name_their_rows(configure: Configure) -> None:
    swept = configure("strategy=s1", "strategy.interval=[0,200]", "tag=${strategy.interval}")
    assert Run(swept).method == "s1-scales_in_out-0-200"
    assert json.loads(json.dumps(Run(swept).strategy.describe()))["trained"] == [["selected", 0, 200]]
