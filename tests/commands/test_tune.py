"""quantbooth-tune with richer scale sets: learned, kept, found again by name, served, and refused in an old format."""

import gc
import json
import signal
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from omegaconf import DictConfig
from safetensors.torch import load_file
from transformers import CLIPTextModel

from artifacts import seal
from curve_files import lasting
from quantbooth.commands.calibrate import calibrate
from quantbooth.commands.sample import sample
from quantbooth.commands.tune import tune
from quantbooth.run.load import load
from quantbooth.run.models import tuned_base, untuned_base
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.signals import ENDING, signals_end_the_process
from quantbooth.store.manifest import FORMAT
from quantbooth.tuning.module import TuningModule

pytestmark = pytest.mark.chain

Configure = Callable[..., DictConfig]
Compose = Callable[..., DictConfig]
QUICK = (
    *("base=folder", "base.resolution=32", "calibration=minmax", "sampler.steps=2", "prior=none"),
    *("tuner.steps=3", "preview.validation_steps=3", "protocol.prompt_stride=25"),
)
GROUPS = ("tuner=scales", "tuner.group_size=8", "strategy=s2", "protocol.eval_steps=[1]")
EVERYTHING = (
    *("tuner=scales_in_out", "tuner.biases=true", "tuner.norms=true", "tuner.ema_decay=0.9", "tuner.identifier=true"),
    *("strategy=s2", "protocol.eval_steps=[1]"),
)


@pytest.fixture(scope="module")
def configure(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Configure:
    """Makes a configuration on a tiny untrained base that is quantized already; all share one store."""
    make = partial(compose, tmp_path_factory.mktemp("tune") / "out", *QUICK)
    calibrate(Run(make()))
    return make


def test_gains_of_groups_are_learned_for_every_expert_and_served(configure: Configure) -> None:
    cfg = configure(*GROUPS)
    folder, plan = tune(Run(cfg))[0], Run(cfg)
    state = load_file(folder / "step-000003.safetensors")
    assert {name.rpartition(".")[2] for name in state} == {"gain_groups", "gain_out"}
    assert {len(tensor) for tensor in state.values()} == {3}
    changed = [name for name, tensor in state.items() if name.endswith("gain_groups") and not tensor.eq(1).all()]
    assert changed
    manifest = plan.only.tuned.manifest()
    assert manifest.contents["tuner"]["group_size"] == 8
    assert manifest.measured["trainable"] == sum(tensor.numel() for tensor in state.values())
    assert plan.only.tuned.identity["tuner"]["group_size"] == 8
    one = Run(configure(*GROUPS[:1], *GROUPS[2:])).only.tuned.identity["tuner"]
    assert "group_size" not in one and "group_size" not in one["learner"]
    base, _ = tuned_base(plan, 3, [plan.only])
    assert all(torch.equal(tensor, state[name]) for name, tensor in plan.tuner.state(base).items())


def test_everything_at_once_is_kept_by_name_and_served(configure: Configure) -> None:
    cfg = configure(*EVERYTHING)
    folder, plan = tune(Run(cfg))[0], Run(cfg)
    states = [load_file(folder / f"step-00000{step}.safetensors") for step in (1, 3)]
    rows = [name for name in states[0] if name.startswith("identifier.")]
    assert len(rows) == 1
    assert {name.rpartition(".")[2] for name in states[0].keys() - set(rows)} == {"gain_in", "gain_out", "shift"}
    assert {len(tensor) for name, tensor in states[0].items() if name not in rows} == {3}
    assert plan.only.tuned.manifest().measured["trainable"] == sum(tensor.numel() for tensor in states[1].values())
    assert not any(torch.equal(states[0][name], states[1][name]) for name in rows)
    untuned, tuned = untuned_base(plan), tuned_base(plan, 3)[0]
    texts = [plan.only.subject.tuning_text, plan.only.subject.class_text]
    with torch.no_grad():
        before, after = (base.encode_prompts(texts).tokens for base in (untuned, tuned))
    assert [torch.equal(before[i], after[i]) for i in range(2)] == [False, True]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in plan.tuner.state(tuned).items())
    pictures = [folder.name for folder in sample(Run(cfg))]
    assert pictures[-1].startswith("toy_mug-s2-scales_in_out-biases-norms-identifier-w4-seed0-step3")


def test_checkpointing_is_for_memory_only(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    switched, switch = [], UNet2DConditionModel.enable_gradient_checkpointing

    def noted(denoiser: UNet2DConditionModel, how: Callable[..., Any]) -> None:
        switched.append(denoiser)
        switch(denoiser, how)

    monkeypatch.setattr(UNet2DConditionModel, "enable_gradient_checkpointing", noted)
    one, other = (
        configure("seed=5"),
        configure("seed=5", "resources.gradient_checkpointing=true", "paths.store=${paths.outputs}/b"),
    )
    calibrate(Run(other))
    states = [load_file(tune(Run(cfg))[0] / "step-000003.safetensors") for cfg in (one, other)]
    assert len(switched) == 1
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_float_weights_with_a_learned_identifier_come_back(configure: Configure) -> None:
    cfg = configure("method=float", "tuner.identifier=true", "tuner.ema_decay=0.5")
    state, plan = load_file(tune(Run(cfg))[0] / "step-000003.safetensors"), Run(cfg)
    again = plan.tuner.state(tuned_base(plan, 3)[0])
    assert again.keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.items())
    assert any(name.startswith("identifier.") for name in state)


@pytest.mark.parametrize("words", [("method=lora",), ("method=qlora",), ("tuner=qlora", "strategy=s2")], ids=str)
def test_adapters_are_kept_and_served_by_setting_and_by_folder(configure: Configure, words: tuple[str, ...]) -> None:
    cfg = configure(*words, "tuner.learning_rate=0.1", "tuner.rank=2", "tuner.alpha=3", "tuner.identifier=true")
    folder, plan = tune(Run(cfg))[0], Run(cfg)
    state = load_file(folder / "step-000003.safetensors")
    own = {name: rows for name, rows in state.items() if not name.startswith("identifier.")}
    assert plan.only.tuned.kind == "adapters" == folder.parent.name
    assert {name.rpartition(".")[2] for name in own} == {"lora_A", "lora_B"}
    assert {len(rows) for rows in own.values()} == {plan.strategy.sets}
    x, t = torch.randn(2, 24, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([150, 900])
    outcomes = []
    for base in (untuned_base(plan), tuned_base(plan, 3)[0], load(plan.base_folder, plan.base_name, [folder])[0]):
        text = base.encode_prompts([plan.only.subject.tuning_text] * 2)
        with torch.no_grad():
            outcomes.append(base.predict(x, t, text))
    assert torch.equal(outcomes[1], outcomes[2])
    assert not any(torch.equal(outcomes[0][i], outcomes[1][i]) for i in range(2))
    again = plan.tuner.state(tuned_base(plan, 3)[0])
    assert all(torch.equal(rows, state[name]) for name, rows in again.items())


def test_adapters_learn_the_same_with_checkpointing(configure: Configure) -> None:
    one, other = (
        configure("method=qlora"),
        configure("method=qlora", "resources.gradient_checkpointing=true", "paths.store=${paths.outputs}/c"),
    )
    calibrate(Run(other))
    states = [load_file(tune(Run(cfg))[0] / "step-000003.safetensors") for cfg in (one, other)]
    assert all(torch.equal(rows, states[1][name]) for name, rows in states[0].items())
    assert any((rows != 0).any() for name, rows in states[0].items() if name.endswith("lora_B"))


def test_experts_of_adapters_trained_apart_are_what_each_learned(configure: Configure) -> None:
    apart = configure("tuner=qlora", "strategy=s2", "strategy.apart=true")
    alone = configure("tuner=qlora", "strategy=s1")
    states = [load_file(tune(Run(cfg))[0] / "step-000003.safetensors") for cfg in (apart, alone)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(rows[1:2], states[1][name]) for name, rows in states[0].items())


def test_experts_apart_hold_what_each_learned_of_everything(configure: Configure) -> None:
    rich = EVERYTHING[:4]
    apart, alone = configure(*rich, "strategy=s2", "strategy.apart=true"), configure(*rich, "strategy=s1")
    states = [load_file(tune(Run(cfg))[0] / "step-000003.safetensors") for cfg in (apart, alone)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(rows[1:2], states[1][name]) for name, rows in states[0].items())


def test_scale_sets_of_an_older_format_are_refused_in_one_line(configure: Configure) -> None:
    cfg = configure("strategy=baseline")
    manifest = tune(Run(cfg))[0] / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format_version": 1}))
    with pytest.raises(UserError) as caught:
        tuned_base(Run(cfg), 3)[0]
    found = f"{manifest} has format_version 1, this quantbooth reads {FORMAT}; set paths.store"
    assert str(caught.value).startswith(found)


def test_a_snapshot_with_other_names_is_refused_naming_the_first(configure: Configure) -> None:
    cfg, plain = configure("strategy=tas"), configure("strategy=tas", "tuner.norms=true")
    few, many = (Path(tune(Run(made))[0]) / "step-000003.safetensors" for made in (cfg, plain))
    few.write_bytes(many.read_bytes())
    seal(few.parent)
    with pytest.raises(UserError, match=r"^the scale set does not fit the model: '[\w.]+' is not in the model$"):
        tuned_base(Run(cfg), 3)[0]


@pytest.mark.parametrize("added", [(), ("method=float",)])
def test_what_is_kept_in_half_the_precision_is_served_nearly_alike(
    configure: Configure, added: tuple[str, ...]
) -> None:
    found = {}
    for precision in ("float32", "float16"):
        cfg = configure("tuner.learning_rate=0.001", f"resources.save_dtype={precision}", *added)
        folder, denoiser = tune(Run(cfg))[0], tuned_base(Run(cfg), 3)[0].denoiser
        size = (folder / "step-000003.safetensors").stat().st_size
        found[precision] = size, torch.cat([value.flatten() for value in denoiser.parameters()])
        assert all(value.dtype == torch.float32 for value in denoiser.parameters())
    (whole, one), (half, other) = found.values()
    learned = sum(tensor.numel() for tensor in load_file(folder / "step-000003.safetensors").values())
    assert whole - half == pytest.approx(2 * learned, rel=0.05)  # the rest is names, and where each begins
    torch.testing.assert_close(other, one, rtol=2**-10, atol=1e-7)
    assert not torch.equal(one, other)


def test_latents_made_anew_in_every_step_change_no_bit(configure: Configure) -> None:
    given = (
        "seed=6",
        "prior.num_class_images=2",
        "prior.class_batch_size=1",
        "prior.loss_weight=1.0",
        "tuner.random_flip=true",
        "trainer.log_every_n_steps=1",
    )
    apart = ("paths.store=${paths.outputs}/c", "paths.logs=${paths.outputs}/c-logs")
    one, other = configure(*given), configure(*given, "resources.cache_latents=false", *apart)
    calibrate(Run(other))
    states = [load_file(tune(Run(cfg))[0] / "step-000003.safetensors") for cfg in (one, other)]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    names = [f"{tune(Run(cfg))[0].name}/**/metrics.csv" for cfg in (one, other)]
    curves = [next(Path(cfg.paths.logs, "csv").glob(name)) for cfg, name in zip((one, other), names, strict=True)]
    assert curves[0] != curves[1]
    assert len(curves[0].read_text().splitlines()) == 4
    assert lasting(curves[0]) == lasting(curves[1])


@pytest.mark.parametrize(
    ("words", "left"),
    [(("seed=10",), 0), (("seed=11", "resources.cache_latents=false"), 0), (("seed=12", "tuner.identifier=true"), 1)],
    ids=str,
)
def test_networks_that_are_not_needed_leave_memory(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], left: int
) -> None:
    seen, step = [], TuningModule.training_step

    def count() -> int:
        """Return how many text encoders have weights; an outline of the base has none."""
        gc.collect()
        return sum(type(held) is CLIPTextModel and held.device.type != "meta" for held in gc.get_objects())

    def noted(stage: TuningModule, number: int) -> torch.Tensor:
        seen.append(count() - before)
        return step(stage, number)

    before = count()
    monkeypatch.setattr(TuningModule, "training_step", noted)
    tune(Run(configure("preview.validation_steps=2", *words)))
    assert seen == [left] * 3


def test_a_run_that_ended_leaves_no_model_in_memory_and_no_handler_of_signals(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler of Lightning's that stays would hold its trainer, and each job of a sweep one more."""
    made: list[weakref.ref[TuningModule]] = []
    whole = TuningModule.__init__

    def noted(self: TuningModule, *args: Any, **kwargs: Any) -> None:
        made.append(weakref.ref(self))
        whole(self, *args, **kwargs)

    monkeypatch.setattr(TuningModule, "__init__", noted)
    with signals_end_the_process():
        before = [signal.getsignal(number) for number in ENDING]
        tune(Run(configure("seed=77")))
        assert [signal.getsignal(number) for number in ENDING] == before
    gc.collect()
    assert [module() for module in made] == [None]


def test_mirrored_pictures_learn_something_else_and_names_of_older_runs_stay(configure: Configure) -> None:
    plain, mirrored = configure("seed=9"), configure("seed=9", "tuner.random_flip=true")
    assert "flip" not in Run(plain).only._learned["tuner"]
    states = [load_file(tune(Run(cfg))[0] / "step-000003.safetensors") for cfg in (plain, mirrored)]
    assert not any(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_products_in_half_precision_learn_float32_numbers_of_their_own(configure: Configure) -> None:
    words = ("seed=13", "preview.validation_steps=0")
    whole, half = configure(*words), configure(*words, "trainer.precision=bf16-mixed")
    calibrate(Run(half))
    states = [load_file(tune(Run(cfg))[0] / "step-000003.safetensors") for cfg in (whole, half)]
    assert {tensor.dtype for tensor in states[1].values()} == {torch.float32}
    for name, tensor in states[0].items():
        assert not torch.equal(tensor, states[1][name])
        assert float((tensor - states[1][name]).abs().max()) < 0.2


def test_precision_of_products_is_part_of_what_is_found_only_where_it_is_not_the_usual(configure: Configure) -> None:
    usual, half = (
        Run(configure("quant=w4a8", "calibration.set.timesteps=2", f"trainer.precision={name}"))
        for name in ("32-true", "bf16-mixed")
    )
    assert half.calibration.name == "w4a8-bf16"
    for made, kept in ((usual, 0), (half, 1)):
        quantized, states = made.quantized_base, made.calibration.set_spec
        assert quantized is not None
        assert states is not None
        identities = [quantized.identity, states.artifact.identity, made.untuned]
        assert [list(identity).count("trainer") for identity in identities] == [kept] * 3
