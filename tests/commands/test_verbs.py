"""The verbs one after another on a tiny untrained base: what they leave, what they never repeat, what they refuse."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import DictConfig
from safetensors.torch import load_file

from artifacts import seal
from composing import composed
from quantbooth.commands.calibrate import calibrate
from quantbooth.commands.evaluate import evaluate
from quantbooth.commands.sample import sample
from quantbooth.commands.tune import tune
from quantbooth.evaluation import module as evaluation
from quantbooth.evaluation.files import read_record, read_rows
from quantbooth.run.load import load
from quantbooth.run.models import tuned_base, untuned_base
from quantbooth.run.run import Run
from quantbooth.runtime.config import plain
from quantbooth.runtime.errors import UserError
from quantbooth.sampling import module as sampling
from quantbooth.sampling.image_set import read_requests
from quantbooth.store.manifest import open_artifact
from quantbooth.tuning import module as tuning

Configure = Callable[..., DictConfig]
QUICK = (
    *("base=folder", "base.resolution=32", "calibration=minmax", "sampler.steps=2"),
    *("prior=generated", "prior.num_class_images=2", "prior.class_batch_size=1"),
    *("tuner.steps=2", "preview.validation_steps=0", "protocol.prompt_stride=13", "protocol.eval_steps=[1]"),
)
NO_PRIOR = ("prior.class_batch_size=0", "prior.num_class_images=0", "prior.loss_weight=0")
METHODS = {"s2": ("strategy=s2",), "float": ("method=float", *NO_PRIOR, "protocol.eval_steps=[]")}
NAMES = {"s2": "s2-scales_in_out", "float": "float"}
STEPS = {"s2": (0, 1, 2), "float": (0, 2)}


@pytest.fixture(scope="module")
def configure(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Configure:
    """Makes a configuration; all share one store unless told otherwise."""
    outputs = tmp_path_factory.mktemp("outputs")

    def make(*overrides: str) -> DictConfig:
        return composed(*QUICK, f"base.path={base_folder}", f"paths.outputs={outputs}", *overrides)

    return make


def chain(cfg: DictConfig) -> list[Path]:
    """Everything up to the scores; their folders."""
    if cfg.quant.bits is not None:
        calibrate(Run(cfg))
    tune(Run(cfg))
    sample(Run(cfg))
    return evaluate(Run(cfg))


def times(cfg: DictConfig) -> dict[str, int]:
    """When each file of the store was written."""
    store = Path(cfg.paths.store)
    return {str(file.relative_to(store)): file.stat().st_mtime_ns for file in store.rglob("*")}


def half_written(cfg: DictConfig) -> list[str]:
    return [name for name in times(cfg) if any(part.startswith(".") for part in Path(name).parts)]


def whole(cfg: DictConfig) -> dict[str, int]:
    """When the files of finished artifacts were written."""
    places = ((Path(name).parts, name, time) for name, time in times(cfg).items())
    return {name: time for parts, name, time in places if len(parts) > 2 and parts[0] != "unfinished"}


def bytes_of(store: Path) -> dict[str, bytes]:
    """Everything in a store but what tells time and memory."""
    files = (file for file in store.rglob("*") if file.suffix in (".safetensors", ".png", ".parquet"))
    return {file.relative_to(store).as_posix(): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def scores(configure: Configure) -> dict[str, list[Path]]:
    """Two methods run to their scores."""
    return {name: chain(configure(*words)) for name, words in METHODS.items()}


@pytest.mark.parametrize("method", ["s2", "float"])
@pytest.mark.chain
def test_the_chain_leaves_whole_artifacts_with_their_settings(
    configure: Configure, scores: dict[str, list[Path]], method: str
) -> None:
    cfg = configure(*METHODS[method])
    plan = Run(cfg)
    items = [
        *plan.parents.values(),
        plan.only.tuned,
        *(made(step) for made in (plan.only.images, plan.only.scores) for step in plan.steps),
    ]
    for item in [*items, plan.only.prior] if plan.recipe.class_batch_size else items:
        folder, manifest = item.require(), item.manifest()
        assert yaml.safe_load((folder / "config.yaml").read_text()).keys() == plain(cfg).keys()
        assert manifest.parents == {role: parent.manifest().fingerprint for role, parent in item.parents.items()}
        assert folder.name == manifest.name
    assert yaml.safe_load((plan.only.tuned.require() / "config.yaml").read_text()) == plain(cfg)
    assert Path(cfg.paths.logs, "csv", plan.only.tuned.require().name).is_dir()
    assert scores[method] == [plan.only.scores(step).require() for step in plan.steps]
    assert half_written(cfg) == []


@pytest.mark.parametrize("method", ["s2", "float"])
def test_scores_have_a_row_per_picture_and_say_what_they_are_about(scores: dict[str, list[Path]], method: str) -> None:
    for step, folder in zip(STEPS[method], scores[method], strict=True):
        record, rows = read_record(folder), read_rows(folder)
        requests = read_requests(folder.parent.parent / record.images)
        assert rows["file"].tolist() == [request.file for request in requests] == ["000-0.png", "013-0.png"]
        assert rows[["clip_t", "clip_i", "local_clip_i"]].abs().max().max() <= 1.0001
        assert (record.method, record.step) == (NAMES[method] if step else "base", step)
        assert (record.subject, record.base, record.seed) == ("toy_mug", "folder", 0)
        assert record.quant == ("w4" if method == "s2" else "fp")
        if step:
            assert record.costs["samples_seen"] == (2 * (2 + 1) if method == "s2" else 2 * 2)
            assert record.run.startswith(f"toy_mug-{method}-")


def test_costs_tell_the_numbers_trained_and_their_size(scores: dict[str, list[Path]], configure: Configure) -> None:
    plan, full = (Run(configure(*given)) for given in METHODS.values())
    gains = load_file(plan.only.tuned.require() / "step-000002.safetensors")
    weights = load_file(full.only.tuned.require() / "step-000002.safetensors")
    assert {len(gain) for gain in gains.values()} == {3}
    for made, state in ((plan, gains), (full, weights)):
        measured = made.only.tuned.manifest().measured
        assert measured["trainable"] == sum(tensor.numel() for tensor in state.values())
        assert measured["file_bytes"] == (made.only.tuned.require() / "step-000002.safetensors").stat().st_size
        seen = measured["samples_per_expert"]
        assert (len(seen), sum(seen)) == (made.strategy.sets, made.recipe.samples_seen)
    sizes: list[Any] = [read_record(scores[method][0]).costs["base_file_bytes"] for method in ("s2", "float")]
    assert sizes[0] == (plan.parents["quantized_base"].require() / "denoiser.safetensors").stat().st_size < sizes[1]


def test_a_second_run_makes_nothing_anew(configure: Configure, scores: dict[str, list[Path]]) -> None:
    for method, given in METHODS.items():
        cfg = configure(*given)
        before = times(cfg)
        assert chain(cfg) == scores[method]
        assert times(cfg) == before


def test_later_asked_steps_are_tuned_for_and_what_is_there_is_kept(
    configure: Configure, scores: dict[str, list[Path]]
) -> None:
    cfg = configure("strategy=s2", "protocol.eval_steps=[]")
    before = times(cfg)
    assert chain(cfg) == [scores["s2"][0], scores["s2"][2]]
    made = {Path(name).parts[:2] for name in times(cfg).keys() - before.keys()}
    assert [kind for kind, _ in made] == ["scale_sets"]


class Dies:
    """A function that works so many times and then raises."""

    def __init__(self, work: Callable[..., object], times: int) -> None:
        self.work, self.left = work, times

    def __call__(self, *args: object, **options: object) -> object:
        if not self.left:
            raise RuntimeError("the process died")
        self.left -= 1
        return self.work(*args, **options)


@pytest.mark.chain
def test_a_run_that_died_four_times_repeats_nothing_and_ends_as_one_that_never_did(
    configure: Configure, scores: dict[str, list[Path]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In the prior, in tuning, in sampling, in evaluation: nothing half-written is left; in the end, equal bytes."""
    deaths = [(sampling, "write_image", 1), (tuning, "denoising_error", 1)]
    deaths += [(sampling, "write_image", 3), (evaluation, "clip_t", 1)]
    cfg, finished = configure("strategy=s2", f"paths.store={tmp_path}"), dict[str, int]()
    for elsewhere, (module, name, count) in enumerate(deaths):
        torch.manual_seed(elsewhere)
        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="the process died"):
            patch.setattr(module, name, Dies(getattr(module, name), count))
            chain(cfg)
        assert half_written(cfg) == []
        assert finished.items() < whole(cfg).items()
        finished = whole(cfg)
    chain(cfg)
    assert finished.items() < whole(cfg).items()
    made, expected = bytes_of(tmp_path), bytes_of(Path(configure().paths.store))
    assert len(made) == 1 + 2 + 2 + 3 * (2 + 5) + 3  # base, prior, snapshots, pictures beside photos, rows
    assert {name: data == expected[name] for name, data in made.items()} == dict.fromkeys(made, True)


def test_experts_apart_see_the_full_budget_each_and_learn_what_s1_learns_there(configure: Configure) -> None:
    """In one zone alone, with one seed, S2's expert and S1's only set are the same run."""
    apart, alone = configure("strategy=s2", "strategy.apart=true"), configure("strategy=s1")
    calibrate(Run(apart))
    states = [load_file(tune(Run(cfg))[0] / "step-000002.safetensors") for cfg in (apart, alone)]
    for name, gain in states[0].items():
        assert gain.shape[0] == 3
        assert torch.equal(gain[1:2], states[1][name])
    measured = Run(apart).only.tuned.manifest().measured
    assert (measured["samples_seen"], measured["samples_per_expert"]) == (18, [6, 6, 6])
    assert measured["trainable"] == 3 * Run(alone).only.tuned.manifest().measured["trainable"]


@pytest.mark.parametrize(("outside", "untouched"), [("base", True), ("tuned", False)])
def test_outside_its_interval_s1_is_served_as_asked(configure: Configure, outside: str, untouched: bool) -> None:
    cfg = configure("strategy=s1", f"strategy.outside={outside}")
    calibrate(Run(cfg))
    tune(Run(cfg))
    plan = Run(cfg)
    draw = torch.Generator().manual_seed(0)
    x, text = torch.randn(3, 24, 8, 8, generator=draw), torch.randn(3, 26, 128, generator=draw)
    t = torch.tensor([353, 354, 934])
    with torch.no_grad():
        before, after = (
            base.denoiser(x, t, encoder_hidden_states=text).sample
            for base in (untuned_base(plan), tuned_base(plan, 2)[0])
        )
    assert [torch.equal(before[i], after[i]) for i in range(3)] == [untouched, False, untouched]


def test_what_was_tuned_on_another_base_is_refused(
    configure: Configure, scores: dict[str, list[Path]], tmp_path: Path
) -> None:
    for kind in ("quantized_base", "scale_sets"):
        shutil.copytree(Path(configure().paths.store) / kind, tmp_path / kind)
    plan = Run(configure("strategy=s2", f"paths.store={tmp_path}"))
    tuned_base(plan, 2)[0]
    manifest = plan.only.tuned.require() / "manifest.json"
    seal(manifest.parent, parents={"quantized_base": "0" * 64})
    with pytest.raises(UserError, match=r"belongs to the quantized_base 000000000000, got .*; make it again for this"):
        tuned_base(plan, 2)[0]


def test_nothing_is_drawn_on_a_base_of_other_files(configure: Configure, scores: Any, tmp_path: Path) -> None:
    run = Run(configure("strategy=s2"))
    other = Path(shutil.copytree(run.base_folder, tmp_path / "other"))
    load(other, "copy", [run.only.tuned.require()])
    (other / "unet" / "another.json").touch()
    with pytest.raises(UserError, match=rf"^quantized_base .* was made of another base .* {other};"):
        load(other, "copy", [run.only.tuned.require()])


def test_a_base_of_another_length_is_refused(configure: Configure) -> None:
    cfg = configure("base.timesteps=500", "base.zones.content=[354,400]", "base.zones.coarse=[400,500]")
    with pytest.raises(UserError, match=r"^base\.timesteps must be 1000, got 500$"):
        calibrate(Run(cfg))


def test_the_class_is_drawn_once_for_all_strategies(configure: Configure, scores: dict[str, list[Path]]) -> None:
    plans = [Run(configure(word)) for word in ("strategy=s1", "strategy=s2", "seed=5")]
    assert len({plan.only.prior.require() for plan in plans}) == 1
    requests = read_requests(plans[0].only.prior.require())
    assert [request.text for request in requests] == ["a photo of a mug"] * 2
    assert open_artifact(plans[0].only.prior.require(), "image_set").parents.keys() == {"quantized_base"}


def test_a_bad_optimizer_is_refused_before_any_work(configure: Configure, tmp_path: Path) -> None:
    for word in ("tuner.learning_rate=-1", "+optimizer.momentum=2"):
        with pytest.raises(UserError, match=r"^optimizer.name=adamw refuses its options: "):
            tune(Run(configure(word, f"paths.store={tmp_path}/store")))
    assert not (tmp_path / "store").exists()


def test_what_was_not_tuned_yet_names_the_command_that_does(
    configure: Configure, scores: dict[str, list[Path]]
) -> None:
    with pytest.raises(UserError, match=r"lacks scale sets of these settings; make it with quantbooth-tune and"):
        sample(Run(configure("seed=77")))


def test_a_float_base_has_nothing_to_calibrate(configure: Configure) -> None:
    with pytest.raises(UserError, match="^quant=fp .* nothing to calibrate"):
        calibrate(Run(configure("method=float")))


def test_the_parts_of_what_is_concatenated_have_scales_of_their_own_when_asked(configure: Configure) -> None:
    folder, plain_folder = (
        calibrate(Run(configure("quant.split_skips=true", "quant.symmetric=true"))),
        calibrate(Run(configure())),
    )
    records = json.loads((folder / "layers.json").read_text())
    split = {record["name"]: record["split"] for record in records if record["split"]}
    assert split == {f"up_blocks.0.resnets.{n}.{layer}": [8, 8] for n in (0, 1) for layer in ("conv1", "conv_shortcut")}
    assert not any(record["split"] for record in json.loads((plain_folder / "layers.json").read_text()))
    tensors = load_file(folder / "denoiser.safetensors")
    assert all(tensors[f"{name}.scale"].shape == (2, 8) for name in split)
    assert {int(zero) for name, z in tensors.items() if name.endswith(".zero") for zero in z.flatten()} == {8}
