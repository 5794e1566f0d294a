"""quantbooth-export and load_pipeline: other programs draw what quantbooth-sample draws."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from omegaconf import DictConfig
from PIL import Image
from safetensors.torch import load_file, save_file

import quantbooth
from quantbooth.calibration.quantized_base import read_quantized_denoiser
from quantbooth.commands.calibrate import calibrate
from quantbooth.commands.export import export
from quantbooth.commands.sample import sample
from quantbooth.commands.tune import tune
from quantbooth.diffusion.pretrained import as_pipeline
from quantbooth.quant.layers import quantized_layers
from quantbooth.run.models import untuned_base
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError
from quantbooth.sampling.image_set import read_requests

pytestmark = pytest.mark.chain

Configure = Callable[..., DictConfig]
Compose = Callable[..., DictConfig]
QUICK = (
    *("base=folder", "base.resolution=32", "calibration=minmax", "sampler.steps=3", "prior=none"),
    *("tuner.steps=3", "preview.validation_steps=0", "protocol.prompt_stride=25", "tuner.learning_rate=0.2"),
)
METHODS = {
    "s2": ("strategy=s2", "tuner=scales_shifts", "tuner.identifier=true"),
    "s1": ("strategy=s1", "tuner=scales_in_out"),
    "float": ("method=float",),
    "lora": ("method=lora", "tuner.alpha=6"),
    "s2-qlora": ("tuner=qlora", "strategy=s2"),
    "scales-lora": ("tuner=scales_lora", "strategy=s2"),
    "qa-lora": ("method=qa_lora", "tuner.group_size=4"),
}
STRANGER = """
import sys, torch
from safetensors.torch import load_file
folder, noise, text, out = sys.argv[1:]
sys.path.insert(0, folder)
if {zones}:
    from by_zone import load
else:
    from diffusers import StableDiffusionPipeline
    load = StableDiffusionPipeline.from_pretrained
pipeline = load(folder)
pipeline(text, latents=load_file(noise)["noise"], num_inference_steps=3, guidance_scale=4.0).images[0].save(out)
assert not [name for name in sys.modules if name.startswith("quantbooth")]
"""


@pytest.fixture(scope="module")
def configure(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Configure:
    """Makes a configuration on a tiny untrained base that is quantized already; all share one store."""
    make = partial(compose, tmp_path_factory.mktemp("export") / "out", *QUICK)
    calibrate(Run(make()))
    for words in METHODS.values():
        tune(Run(make(*words)))
        sample(Run(make(*words)))
    return make


def drawn(cfg: DictConfig) -> tuple[np.ndarray, Any, torch.Tensor]:
    """Our own picture of the first request, the request, and the noise it began with."""
    plan = Run(cfg)
    folder, denoiser = plan.only.images(plan.recipe.steps).require(), untuned_base(plan).denoiser.config
    request = read_requests(folder)[0]
    noise = quantbooth.initial_noise([request.prompt], [request.seed], (denoiser.in_channels, 8, 8))
    return pixels(folder / request.file), request, noise


def pixels(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file), dtype=np.int32)


def draw(pipeline: Any, request: Any, noise: torch.Tensor) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(request.text, latents=noise, num_inference_steps=3, guidance_scale=4.0).images[0]
    return np.asarray(image, dtype=np.int32)


@pytest.mark.parametrize(
    "method", ["s2", "lora", *(pytest.param(one, marks=pytest.mark.slow) for one in ("float", "s2-qlora"))]
)
def test_plain_diffusers_in_another_process_draws_our_pictures(
    configure: Configure, method: str, tmp_path: Path
) -> None:
    cfg = configure(*METHODS[method], f"export.folder={tmp_path}/here")
    folder = export(Run(cfg))
    ours, request, noise = drawn(cfg)
    save_file({"noise": noise}, tmp_path / "noise.safetensors")
    program = STRANGER.format(zones=method.startswith("s2"))
    given = [str(folder), str(tmp_path / "noise.safetensors"), request.text, str(tmp_path / "theirs.png")]
    subprocess.run([sys.executable, "-W", "ignore", "-c", program, *given], check=True, cwd=tmp_path)
    assert np.abs(pixels(tmp_path / "theirs.png") - ours).max() <= 1
    assert np.ptp(ours) > 10
    card = (folder / "README.md").read_text()
    name = Run(cfg).only.tuned.require().name
    assert folder == tmp_path / "here" / name
    assert f"| run | {name} |" in card
    assert ("from by_zone import load" in card) == method.startswith("s2")


@pytest.mark.parametrize("method", METHODS)
def test_a_loaded_pipeline_draws_our_pictures(configure: Configure, base_folder: Path, method: str) -> None:
    cfg = configure(*METHODS[method])
    ours, request, noise = drawn(cfg)
    pipeline = quantbooth.load_pipeline(base_folder, Run(cfg).only.tuned.require())
    assert np.abs(draw(pipeline, request, noise) - ours).max() <= 1
    quantized = Run(cfg).quantized_base
    untuned = quantbooth.load_pipeline(base_folder, quantized_base=None if quantized is None else quantized.require())
    assert np.abs(draw(untuned, request, noise) - ours).max() > 1


def test_the_same_integers_with_other_zero_points_draw_our_pictures(
    configure: Configure, base_folder: Path, tmp_path: Path
) -> None:
    cfg = configure(*METHODS["qa-lora"], f"export.folder={tmp_path}", "export.format=quantized")
    run, folder = Run(cfg), export(Run(cfg))
    assert run.quantized_base is not None
    quantized = run.quantized_base.require()
    before, after = (read_quantized_denoiser(place, base_folder) for place in (quantized, folder))
    base = untuned_base(run)
    changed = {name for name, layer in quantized_layers(after) if layer.zero.is_floating_point()}
    assert changed and all(name.rpartition(".")[2] in ("to_q", "to_k", "to_v", "0") for name in changed)
    for (name, old), (other, new) in zip(quantized_layers(before), quantized_layers(after), strict=True):
        assert name == other
        assert torch.equal(old.form.integers(old.codes), new.form.integers(new.codes))
        assert (name in changed) == (not torch.equal(old.dequantized(), new.dequantized()))
    ours, request, noise = drawn(cfg)
    pipeline = as_pipeline(base.with_denoiser(after))
    assert np.abs(draw(pipeline, request, noise) - ours).max() <= 1
    assert "read_quantized_denoiser" in (folder / "README.md").read_text()


def test_adapters_alone_draw_our_pictures_on_the_float_base(
    configure: Configure, base_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    cfg = configure(*METHODS["lora"], f"export.folder={tmp_path}", "export.format=lora")
    folder = export(Run(cfg))
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "pytorch_lora_weights.safetensors"]
    assert 'pipeline.load_lora_weights(".", weight_name=' in (folder / "README.md").read_text()
    ours, request, noise = drawn(cfg)
    pipeline = DiffusionPipeline.from_pretrained(str(base_folder))
    before = draw(pipeline, request, noise)
    pipeline.load_lora_weights(str(folder), weight_name="pytorch_lora_weights.safetensors")
    assert np.abs(draw(pipeline, request, noise) - ours).max() <= 1 < np.abs(before - ours).max()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            METHODS["float"],
            "^export.format=lora .* adapters; choose tuner=lora or tuner=qlora$",
        ),
        ((*METHODS["lora"], "export.step=0"), "^export.format=lora .* adapters"),
        (METHODS["s2-qlora"], "^strategy s2 has 3 denoisers, one file holds one; choose export.format=diffusers$"),
        (
            (*METHODS["s2-qlora"], "export.merged=true"),
            "export.format=lora cannot store .*export.merged=true .*; choose export.fo",
        ),
        (
            METHODS["qa-lora"],
            "^export.format=lora cannot store adapters of groups of inputs; choose export.format=quan",
        ),
        ((*METHODS["lora"], "tuner.identifier=true"), "export.format=lora .* a learned identifier"),
    ],
)
def test_what_a_lora_file_has_no_place_for_is_told(
    configure: Configure, tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        export(Run(configure(*words, f"export.folder={tmp_path}/x", "export.format=lora")))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (METHODS["s1"], "^strategy s1 has 2 denoisers, one file holds one; choose export.format=diffusers$"),
        (("tuner=scales",), "^export.format=quantized needs tuned adapters of groups of inputs; choose tuner=qa_lora$"),
        (("method=qlora",), "^export.format=quantized needs tuned adapters of groups of inputs; choose tuner=qa_lora$"),
        (
            (*METHODS["qa-lora"], "export.precision=float16"),
            "^export.format=quantized cannot .* export.precision=float16",
        ),
        (
            (*METHODS["qa-lora"], "quant=w4a8"),
            "^export.format=quantized merges adapters, .* quant.act_bits quantizes them",
        ),
    ],
)
def test_what_zero_points_have_no_place_for_is_told(
    configure: Configure, tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        export(Run(configure(*words, f"export.folder={tmp_path}/x", "export.format=quantized")))
    assert not (tmp_path / "x").exists()


def test_files_of_others_are_for_drawing_only(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "style.safetensors").touch()
    for option in (f"lora=[{tmp_path}/style.safetensors]", "prompt=a mug"):
        with pytest.raises(UserError, match=f"^{option.partition('=')[0]} .*leave it out of an export$"):
            export(Run(configure(f"export.folder={tmp_path}/x", option)))
    with pytest.raises(UserError, match="^strength .*export.step=0"):
        export(Run(configure(f"export.folder={tmp_path}/x", "export.step=0", "strength=0.5")))
    assert not (tmp_path / "x").exists()


def test_one_denoiser_for_all_zones_says_what_that_changes(configure: Configure, tmp_path: Path) -> None:
    folder = export(Run(configure(*METHODS["s2"], f"export.folder={tmp_path}", "export.merged=true")))
    assert folder.name.endswith("-merged")
    assert not list(folder.glob("unet_*"))
    rows = [line for line in (folder / "README.md").read_text().splitlines() if line.endswith(" % |")]
    assert [row.split("|")[1].strip() for row in rows] == ["clean_up", "content", "coarse"]
    assert all(float(row.split("|")[3].strip(" %")) > 0 for row in rows)
    assert DiffusionPipeline.from_pretrained(str(folder)).unet.config.in_channels > 0


def test_a_single_file_and_the_untuned_base(configure: Configure, base_folder: Path, tmp_path: Path) -> None:
    cfg = configure(
        f"export.folder={tmp_path}", "export.step=0", "export.format=safetensors", "export.precision=float16"
    )
    folder = export(Run(cfg))
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "unet.safetensors"]
    kept = load_file(folder / "unet.safetensors")
    names = load_file(base_folder / "unet" / "diffusion_pytorch_model.safetensors").keys()
    assert kept.keys() == names
    assert {tensor.dtype for tensor in kept.values()} == {torch.float16}
    assert "It was taught nothing." in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("export.step=2",), r"keeps the steps 3, not 2; see protocol\.eval_steps$"),
        (
            ("export.format=safetensors", "export.merged=true"),
            r"^export\.format=safetensors .* a learned ",
        ),
        (("strategy=s2", "export.format=safetensors"), r"^strategy s2 has 3 denoisers, one file holds one; choose "),
        (("seed=7",), r"lacks scale sets of these settings; make it with quantbooth-tune and the same options$"),
    ],
)
def test_what_cannot_be_exported_is_told_and_leaves_nothing(
    configure: Configure, tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        export(Run(configure("strategy=s2", *METHODS["s2"][1:], f"export.folder={tmp_path}/x", *words)))
    assert not (tmp_path / "x").exists()


def test_an_export_is_not_written_over_and_nothing_is_loaded_to_say_so(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = configure(*METHODS["s1"], f"export.folder={tmp_path}")
    export(Run(cfg))
    monkeypatch.setattr("quantbooth.commands.export.tuned_base", lambda *_: pytest.fail("a base was loaded"))
    with pytest.raises(UserError, match=r" is there already; remove it, or choose another export\.folder$"):
        export(Run(cfg))
    assert len(list(tmp_path.iterdir())) == 1


def test_what_does_not_belong_together_is_not_loaded(configure: Configure, base_folder: Path, tmp_path: Path) -> None:
    tuned = Run(configure(*METHODS["s1"])).only.tuned.require()
    other = calibrate(Run(configure("quant=w8", *METHODS["s1"])))
    with pytest.raises(UserError, match=r"^scale_sets toy_mug-s1-.* belongs to the quantized_base "):
        quantbooth.load_pipeline(base_folder, tuned, other)
    moved = tmp_path / "scale_sets" / tuned.name
    moved.parent.mkdir()
    moved.symlink_to(tuned)
    assert quantbooth.load_pipeline(base_folder, moved)
    with pytest.raises(UserError, match=r"must hold a quantized base, found scale sets"):
        quantbooth.load_pipeline(base_folder, tuned, tuned)
    with pytest.raises(UserError, match=r"must hold scale sets, found nothing; make it with quantbooth-tune"):
        quantbooth.load_pipeline(base_folder, tmp_path / "nothing")
    with pytest.raises(AttributeError, match="has no attribute 'unload'"):
        _ = quantbooth.unload


@pytest.mark.parametrize("words", [METHODS["float"], METHODS["lora"], (*METHODS["s2"], "export.step=0")])
def test_merging_the_only_denoiser_is_refused(configure: Configure, tmp_path: Path, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="^export.merged=true .* has one; leave it out$"):
        export(Run(configure(*words, f"export.folder={tmp_path}/x", "export.merged=true")))
    assert not (tmp_path / "x").exists()
