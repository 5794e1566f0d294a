"""Exported folders: plain diffusers reads them, each timestep served by the denoiser of its zone."""

import ast
import importlib.util
import inspect
import sys
from copy import copy
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, TypeGuard

import pytest
import torch
from diffusers import AutoPipelineForText2Image, DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.families.flux2 import Flux2Klein
from quantbooth.diffusion.families.registry import FAMILIES
from quantbooth.diffusion.families.sd3 import StableDiffusion3
from quantbooth.diffusion.families.stable_diffusion import StableDiffusion
from quantbooth.diffusion.families.zimage import ZImage
from quantbooth.diffusion.model import Family
from quantbooth.diffusion.pretrained import load_base
from quantbooth.export.by_zone import by_zone_
from quantbooth.export.files import (
    PRECISIONS,
    Denoisers,
    _time,
    float_denoiser,
    model_card,
    write_pipeline,
    write_weights,
)
from quantbooth.runtime.errors import UserError
from quantbooth.tuning.identifier import attach_rows_

MAIN = "unet"
ROWS = [(0, 200, "unet_1_low"), (200, 750, "unet_2_middle"), (750, 1000, "unet_3_high")]


def weights(seed: int, base: Base) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return dict(base.family.new_denoiser(base.denoiser.config).state_dict())


@pytest.fixture(scope="module")
def denoisers(base: Base) -> Denoisers:
    return {name: partial(weights, seed, base) for seed, name in enumerate(name for _, _, name in ROWS)}


@pytest.fixture(scope="module")
def folder(base: Base, denoisers: Denoisers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("exported")
    write_pipeline(base, denoisers, ROWS, place, torch.float32)
    return place


def module_of(folder: Path) -> ModuleType:
    """The file that lies in the folder, imported by its path as a stranger's program would."""
    spec = importlib.util.spec_from_file_location("exported_by_zone", folder / "by_zone.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_file_in_the_folder_needs_nothing_of_ours(folder: Path) -> None:
    text = (folder / "by_zone.py").read_text()
    imports = [line for line in text.splitlines() if line.startswith(("import ", "from "))]
    assert not [line for line in imports if "quantbooth" in line]
    assert "exported_by_zone" not in sys.modules


@pytest.mark.parametrize("t", [0, 199, 199.5, 200, 749, 750, 999])
def test_each_timestep_goes_to_the_unet_of_its_zone(folder: Path, base: Base, denoisers: Denoisers, t: float) -> None:
    pipeline = module_of(folder).load(str(folder))
    name = next(name for first, end, name in ROWS if first <= t < end)
    x, text = torch.randn(2, base.denoiser.config.in_channels, 8, 8), base.encode_prompts(["a", "b"]).tokens
    with torch.no_grad():
        theirs = pipeline.unet(x, torch.tensor(t), encoder_hidden_states=text).sample
        ours = float_denoiser(base, denoisers[name]())(x, torch.tensor(t), encoder_hidden_states=text).sample
    assert torch.equal(theirs, ours)


@pytest.mark.parametrize(
    "kind", [DiffusionPipeline, StableDiffusionPipeline, AutoPipelineForText2Image, UNet2DConditionModel]
)
def test_plain_diffusers_does_not_open_one_zones_unet_for_all_timesteps(folder: Path, kind: Any) -> None:
    more = {"subfolder": "unet"} if kind is UNet2DConditionModel else {}
    with pytest.raises((ValueError, OSError), match="unet|no file named config"):
        kind.from_pretrained(str(folder), **more)


def test_nor_do_we_take_it_for_a_base(folder: Path) -> None:
    with pytest.raises(UserError, match="unet|no file named config"):
        load_base(folder, "exported")


def test_others_move_with_the_unet_and_a_strange_timestep_is_refused(folder: Path) -> None:
    denoiser = module_of(folder).load(str(folder)).unet.to(torch.float64)
    assert {parameter.dtype for parameter in denoiser.parameters()} == {torch.float64}
    with pytest.raises(ValueError, match=r"^no zone of by_zone\.json contains the timestep 1000\.0$"):
        denoiser(torch.zeros(1), 1000)


@pytest.mark.chain
def test_one_unet_needs_no_file(base: Base, denoisers: Denoisers, tmp_path: Path) -> None:
    write_pipeline(base, {MAIN: denoisers["unet_2_middle"]}, [(0, 1000, MAIN)], tmp_path, torch.float16)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("by_zone")]
    again = UNet2DConditionModel.from_pretrained(str(tmp_path), subfolder="unet", torch_dtype=torch.float16)
    assert all(
        torch.equal(tensor, denoisers["unet_2_middle"]()[name].half()) for name, tensor in again.state_dict().items()
    )


def test_a_learned_identifier_becomes_a_plain_row(base_folder: Path, tmp_path: Path, denoisers: Denoisers) -> None:
    from_disk = load_base(base_folder, "toy")
    token = from_disk.tokenizer("sks").input_ids[1]
    rows = attach_rows_(from_disk, (token,)).rows
    with torch.no_grad():
        rows.add_(1)
    state = from_disk.denoiser.state_dict()
    write_pipeline(from_disk, {MAIN: lambda: state}, [(0, 1000, MAIN)], tmp_path, torch.float32)
    pipeline = StableDiffusionPipeline.from_pretrained(str(tmp_path), safety_checker=None)
    plain = from_disk.with_text_encoder(pipeline.text_encoder)
    texts = ["a photo of a sks mug", "a mug"]
    assert torch.equal(plain.encode_prompts(texts).tokens, from_disk.encode_prompts(texts).tokens)


def test_a_single_file_holds_the_weights_in_the_precision_asked_for(base: Base, tmp_path: Path) -> None:
    state = weights(0, base)
    for dtype in PRECISIONS.values():
        write_weights(state, MAIN, tmp_path, dtype)
        kept = load_file(tmp_path / "unet.safetensors")
        assert kept.keys() == state.keys()
        assert all(torch.equal(tensor, state[name].to(dtype)) for name, tensor in kept.items())


@pytest.mark.parametrize("family", FAMILIES.values())
@pytest.mark.parametrize("folders", [1, 2])
def test_the_call_on_a_card_is_one_of_the_pipeline(family: type[Family], folders: int) -> None:
    subject = SimpleNamespace(name="rex", class_word="dog", identifier="sks", photos=[1], tuning_text="a sks dog")
    facts = {"step": 1, "base": "b", "licence": None, "quant": "w4", "method": "s2", "run": "r", "component": "unet"}
    zones, options = [(0, 9, "unet")] * folders, SimpleNamespace(format="diffusers", precision="float32", merged=False)
    settings = {"tuner": {"steps": 1}, "seed": 0}
    call = "".join(f", {option}={value!r}" for option, value in family.call_options.items())
    more = {"absent": "", "call": call, "sets": folders, "errors": {}}
    card = model_card(subject=subject, zones=zones, options=options, settings=settings, **facts, **more)
    called = [node for node in ast.walk(ast.parse(card.split("```")[1].removeprefix("python"))) if is_call(node)]
    (found,) = called
    given = {str(word.arg): ast.literal_eval(word.value) for word in found.keywords}
    bound = inspect.signature(family.pipeline_class.__call__).bind(None, *found.args, **given).arguments
    assert bound == {"self": None, "prompt": "a sks dog", **family.call_options}


def is_call(node: ast.AST) -> TypeGuard[ast.Call]:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "pipeline"


@pytest.mark.parametrize(
    ("family", "network_time", "t"),
    [
        (StableDiffusion, 250.5, 250.5),
        (StableDiffusion3, 251.0, 250.0),
        (StableDiffusion3, 0.4, 0.0),
        (Flux2Klein, 0.251, 250.0),
        (ZImage, 0.749, 250.0),
        (ZImage, 0.9996, 0.0),
    ],
)
def test_zones_are_of_training_timesteps_whatever_a_network_is_given(
    base: Base, tmp_path: Path, denoisers: Denoisers, family: type[Family], network_time: float, t: float
) -> None:
    other_family = copy(base)
    object.__setattr__(other_family, "family", family())  # which does not look at the denoiser here
    scale, offset = _time(other_family)
    assert max(0.0, round(scale * network_time, 2) - offset) == pytest.approx(t, abs=0.01)
    called: list[str] = []
    first, other = torch.nn.Identity(), torch.nn.Identity()
    for name, one in (("first", first), ("other", other)):
        setattr(one, "forward", lambda name=name, **_: called.append(name))  # noqa: B010  # a method, to mypy
    by_zone_(first, "first", {"other": other}, [(0, 250, "first"), (250, 1000, "other")], (scale, offset))
    first(timestep=torch.tensor([network_time, network_time]), hidden_states=None)
    assert called == ["first" if t < 250 else "other"]


def test_zones_hand_over_every_argument() -> None:
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    class Noted(torch.nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, *args: Any, **kwargs: Any) -> SimpleNamespace:
            calls.append((self.name, args, kwargs))
            return SimpleNamespace(sample=self.name)

    denoiser = Noted("unet")
    by_zone_(denoiser, "unet", {"other": Noted("other")}, [(0, 5, "other"), (5, 10, "unet")])
    assert [denoiser("x", 4.9, "text", return_dict=False).sample, denoiser("x", timestep=5).sample] == ["other", "unet"]
    assert calls == [("other", ("x", 4.9, "text"), {"return_dict": False}), ("unet", ("x",), {"timestep": 5})]
