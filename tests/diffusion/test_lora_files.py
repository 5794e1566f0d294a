"""LoRA files: their sum worked by hand, equal in all formats; a misfit is refused by name."""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.lora_files import LoraFile, add_loras_, lora_file
from quantbooth.diffusion.lora_names import parts_of, to_peft
from quantbooth.diffusion.pretrained import as_pipeline
from quantbooth.quant import adapters
from quantbooth.quant.selection import SetSelection
from quantbooth.quant.surgery import quantize_
from quantbooth.runtime.errors import UserError

BLOCK = "down_blocks.1.attentions.0.transformer_blocks.0.attn1"
LAYERS = (f"{BLOCK}.to_q", f"{BLOCK}.to_out.0", "conv_in", "mid_block.resnets.0.conv1")
CLIP = "encoder.layers.0.self_attn.q_proj"
SCALE = 0.75
"""alpha / r = 1.5 / 2 of every file here."""


@pytest.fixture
def fresh(base: Base) -> Base:
    return base.with_denoiser(deepcopy(base.denoiser)).with_text_encoder(deepcopy(base.text_encoder))


def factors(base: Base) -> dict[str, tuple[Tensor, Tensor]]:
    """Random A and B of rank 2 for some layers of the denoiser and one of the text encoder."""
    draw, made = torch.Generator().manual_seed(0), {}
    for name in LAYERS:
        out, *inputs = base.denoiser.get_submodule(name).weight.shape
        point = [1, 1] if len(inputs) == 3 else []
        made[f"unet.{name}"] = [torch.randn(2, *inputs, generator=draw), torch.randn(out, 2, *point, generator=draw)]
    made[f"text_encoder.{CLIP}"] = [torch.randn(2, 128, generator=draw), torch.randn(128, 2, generator=draw)]
    return {name: (0.1 * down, 0.1 * up) for name, (down, up) in made.items()}


def as_diffusers(found: dict[str, tuple[Tensor, Tensor]], folder: Path) -> Path:
    config = json.dumps({f"{part}.lora_alpha": 1.5 for part in ("unet", "text_encoder")})
    halves = {f"{n}.lora_{h}.weight": t for n, pair in found.items() for h, t in zip("AB", pair, strict=True)}
    save_file(halves, folder / "style.safetensors", metadata={"lora_adapter_metadata": config})
    return folder / "style.safetensors"


def as_kohya(found: dict[str, tuple[Tensor, Tensor]], folder: Path) -> Path:
    """As kohya's trainer writes: half precision would lose bits, so float32 here."""
    made: dict[str, Tensor] = {}
    for name, (down, up) in found.items():
        part, _, layer = name.partition(".")
        prefix = "lora_unet_" if part == "unet" else "lora_te_text_model_"
        flat = prefix + layer.replace(".", "_")
        made |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up, f"{flat}.alpha": torch.tensor(1.5)}
    save_file(made, folder / "style.safetensors", metadata={"ss_network_alpha": "9"})
    return folder / "style.safetensors"


def as_old_diffusers(found: dict[str, tuple[Tensor, Tensor]], folder: Path) -> Path:
    """Of before peft: the scale is 1, so it is put into the factor."""
    halves = {
        f"{n}.lora.{half}.weight": tensor * (SCALE if half == "up" else 1)
        for n, pair in found.items()
        for half, tensor in zip(("down", "up"), pair, strict=True)
    }
    save_file(halves, folder / "style.safetensors")
    return folder / "style.safetensors"


def as_peft(found: dict[str, tuple[Tensor, Tensor]], folder: Path) -> Path:
    """peft's folder of a wrapped network."""
    halves = {
        f"base_model.model.{n.partition('.')[2]}.lora_{half}.weight": tensor
        for n, pair in found.items()
        for half, tensor in zip("AB", pair, strict=True)
    }
    save_file(halves, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"lora_alpha": 1.5, "r": 2, "alpha_pattern": {}}))
    return folder


FORMATS: dict[str, Callable[[dict[str, tuple[Tensor, Tensor]], Path], Path]] = {
    **{"diffusers": as_diffusers, "kohya": as_kohya, "old diffusers": as_old_diffusers, "peft": as_peft}
}


def by_hand(base: Base, weight: float) -> Base:
    """A copy with w s B A in the weights."""
    made = base.with_denoiser(deepcopy(base.denoiser)).with_text_encoder(deepcopy(base.text_encoder))
    for name, (down, up) in factors(base).items():
        part, _, layer = name.partition(".")
        own: Any = parts_of(made)[part].get_submodule(layer).weight
        with torch.no_grad():
            own += (weight * SCALE * up.flatten(1).double() @ down.flatten(1).double()).view(own.shape).float()
    return made


def outcome(base: Base) -> list[Tensor]:
    draw = torch.Generator().manual_seed(4)
    side, channels = base.denoiser.config.sample_size, base.denoiser.config.in_channels
    x, t = torch.randn(2, channels, side, side, generator=draw), torch.tensor([20, 700])
    with torch.no_grad():
        text = base.encode_prompts(["a photo of a red mug", "a duck"]).tokens
        return [text, base.denoiser(x, t, encoder_hidden_states=text).sample]


@pytest.mark.parametrize("weight", [1.0, -0.4])
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_adds_what_is_worked_by_hand(
    base: Base, fresh: Base, tmp_path: Path, form: str, weight: float
) -> None:
    path = FORMATS[form](factors(base), tmp_path)
    add_loras_(fresh, [lora_file(f"{path}:{weight}")])
    untouched = outcome(base)
    for ours, expected, before in zip(outcome(fresh), outcome(by_hand(base, weight)), untouched, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)
        assert not torch.allclose(ours, before, rtol=1e-3, atol=1e-4)


@pytest.mark.chain
def test_several_files_add_up_on_packed_codes(base: Base, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    paths = [as_kohya(factors(base), tmp_path / "a"), as_diffusers(factors(base), tmp_path / "b")]
    denoiser = deepcopy(base.denoiser)
    quantize_(denoiser, 8, exclude=["conv_in"])
    bases = [base.with_denoiser(deepcopy(denoiser)) for _ in range(2)]
    bases = [made.with_text_encoder(deepcopy(base.text_encoder)) for made in bases]
    add_loras_(bases[0], [lora_file(f"{paths[0]}:0.25"), lora_file(f"{paths[1]}:0.5")])
    add_loras_(bases[1], [lora_file(f"{paths[0]}:0.75")])
    for one, other in zip(outcome(bases[0]), outcome(bases[1]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def tuned(base: Base) -> dict[str, Tensor]:
    """One set of random adapters on a base, read out."""
    selection, draw = SetSelection(), torch.Generator().manual_seed(5)
    adapters.attach_(base.denoiser, LAYERS, 1, 2, SCALE, selection, draw)
    for numbers in adapters.parameters(base.denoiser):
        numbers.data = 0.1 * torch.randn(numbers.shape, generator=draw)
    selection.choose(torch.tensor([1, 1]))
    return adapters.read(base.denoiser)


def test_what_we_write_is_read_back_and_does_the_same(base: Base, fresh: Base, tmp_path: Path) -> None:
    save_file(to_peft(tuned(fresh), "unet"), tmp_path / "ours.safetensors")
    again = base.with_denoiser(deepcopy(base.denoiser))
    add_loras_(again, [lora_file(str(tmp_path / "ours.safetensors"))])
    for one, other in zip(outcome(fresh), outcome(again), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_diffusers_reads_what_we_write_and_does_the_same(base: Base, fresh: Base, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    save_file(to_peft(tuned(fresh), "unet"), tmp_path / "pytorch_lora_weights.safetensors")
    theirs = base.with_denoiser(deepcopy(base.denoiser))
    pipeline = as_pipeline(theirs)
    pipeline.load_lora_weights(str(tmp_path), weight_name="pytorch_lora_weights.safetensors")
    ours, expected, before = (outcome(made)[1] for made in (fresh, theirs, base))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ours, before, rtol=1e-3, atol=1e-4)


def test_we_read_what_peft_and_diffusers_write_and_do_the_same(base: Base, fresh: Base, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    theirs = deepcopy(base.denoiser)
    config = peft.LoraConfig(r=2, lora_alpha=3, target_modules=["to_q", "to_out.0", "conv1"], init_lora_weights=False)
    theirs.add_adapter(config)
    layers = peft.utils.get_peft_model_state_dict(theirs)
    told = theirs.peft_config["default"].to_dict()
    StableDiffusionPipeline.save_lora_weights(str(tmp_path), unet_lora_layers=layers, unet_lora_adapter_metadata=told)
    add_loras_(fresh, [lora_file(str(tmp_path))])
    ours, expected, before = (outcome(made)[1] for made in (fresh, base.with_denoiser(theirs), base))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ours, before, rtol=1e-3, atol=1e-4)


def test_contents_and_weight_are_its_identity_and_its_place_is_not(base: Base, tmp_path: Path) -> None:
    places = [tmp_path / name for name in "ab"]
    for place in places:
        place.mkdir()
        as_peft(factors(base), place)
    one, other = (lora_file(str(place)) for place in places)
    assert one.identity == other.identity and one.path != other.path
    assert one.identity != replace(one, weight=0.5).identity
    (places[1] / "adapter_config.json").write_text(json.dumps({"lora_alpha": 3}))
    assert one.identity != other.identity


@pytest.mark.parametrize(
    ("text", "weight"),
    [("{}", 1.0), ("{}:0.5", 0.5), ("{}:-2", -2.0), ("{}:1e-1", 0.1)],
)
def test_a_weight_stands_behind_a_colon(tmp_path: Path, text: str, weight: float) -> None:
    path = tmp_path / "a:b.safetensors"
    path.touch()
    assert lora_file(text.format(path)) == LoraFile(path, weight)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}/nothing.safetensors:0.5", "^lora: no file or folder at .*/nothing.safetensors$"),
        ("{}/some.safetensors:much", "^lora: no file or folder at .*/some.safetensors:much$"),
        ("{}/some.safetensors:inf", "^lora: no file or folder at .*/some.safetensors:inf$"),
        ("{}/some.bin", "^lora: .*/some.bin must be in safetensors, for other files can run code; convert it first$"),
        ("{}/some.ckpt:1", "^lora: .*/some.ckpt must be in safetensors"),
        ("{}/empty", "^lora: the folder .*/empty must hold one file in safetensors, found none$"),
        ("{}", "^lora: the folder .* must hold one file in safetensors, found more.safetensors, some.safetensors$"),
        ("{}/peft", "^lora: adapter_config.json .*alpha.* must .*/adapter_model.safetensors$"),
    ],
)
def test_what_is_no_file_of_the_kind_is_refused(tmp_path: Path, text: str, message: str) -> None:
    for name in ("empty", "peft"):
        (tmp_path / name).mkdir()
    for name in ("some.safetensors", "more.safetensors", "some.bin", "some.ckpt", "peft/adapter_model.safetensors"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=message):
        lora_file(text.format(tmp_path))


A, B = torch.ones(2, 64), torch.ones(64, 2)
ONE_INFINITE = A / torch.arange(128).view(2, 64)
TO_Q = f"unet.{BLOCK}.to_q"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"lora_unet_input_blocks_1.lora_down.weight": A, "lora_unet_out.alpha": A, "third": A},
            r" matches nothing of this base: it holds 'lora_unet_input_blocks_1.lora_down.weight' and "
            r"'lora_unet_out.alpha', the base 'unet.\w+' and 'unet.[\w.]+'$",
        ),
        ({}, r" matches nothing of this base: it holds nothing, the base 'unet.\w+' and"),
        (
            {f"{TO_Q}.lora_A.weight": A, f"{TO_Q}.lora_B.weight": B, "unet.elsewhere.lora_A.weight": A},
            " does not fit this base: 'unet.elsewhere.lora_A.weight' is not a LoRA factor of one of its layers$",
        ),
        (
            {f"{TO_Q}.lora_A.weight": A, f"{TO_Q}.lora_B.weight": B, f"{TO_Q}.lora_magnitude_vector": A},
            "lora_magnitude_vector' is not a LoRA factor of one of its layers$",
        ),
        ({f"{TO_Q}.lora_A.weight": A, f"{TO_Q}.alpha": A[0, 0]}, r"to_q it must hold both factors, got A, alpha$"),
        (
            {f"{TO_Q}.lora_A.weight": A[:, :5].clone(), f"{TO_Q}.lora_B.weight": B},
            rf" must have A and B of \(2, \d+\) and \(\d+, 2\) for '{TO_Q}', got \(2, 5\) and \(64, 2\)$",
        ),
        ({f"{TO_Q}.lora_A.weight": ONE_INFINITE, f"{TO_Q}.lora_B.weight": B}, "to_q.lora_A.weight' must be finite"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_added(
    fresh: Base, tmp_path: Path, tensors: dict[str, Tensor], message: str
) -> None:
    path = tmp_path / "style.safetensors"
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)
    with pytest.raises(UserError, match=message) as caught:
        add_loras_(fresh, [lora_file(str(path))])
    assert str(path) in str(caught.value)
    assert not any(hasattr(module, "foreign_A") for module in fresh.denoiser.modules())


def test_a_damaged_file_and_patterns_of_alpha_are_refused(base: Base, fresh: Base, tmp_path: Path) -> None:
    (tmp_path / "some.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="some.safetensors cannot be read as a LoRA file: "):
        add_loras_(fresh, [lora_file(str(tmp_path / "some.safetensors"))])
    folder = tmp_path / "peft"
    folder.mkdir()
    as_peft(factors(base), folder)
    (folder / "adapter_config.json").write_text(json.dumps({"lora_alpha": 1, "alpha_pattern": {"to_q": 2}}))
    with pytest.raises(UserError, match="an alpha_pattern is not covered; save it with one lora_alpha$"):
        add_loras_(fresh, [lora_file(str(folder))])


@pytest.mark.parametrize("alpha", [1.5, 1.501, 3.0])
def test_two_alphas_of_a_layer_must_agree(base: Base, fresh: Base, tmp_path: Path, alpha: float) -> None:
    file = as_peft(factors(base), tmp_path) / "adapter_model.safetensors"
    layer = next(name for name in load_file(file) if name.endswith("lora_A.weight")).removesuffix(".lora_A.weight")
    save_file(load_file(file) | {f"{layer}.alpha": torch.tensor(alpha)}, file)
    if alpha < 3:
        add_loras_(fresh, [lora_file(str(file))])
    else:
        with pytest.raises(UserError, match=r"its alpha is 3, its configuration says lora_alpha = 1\.5"):
            add_loras_(fresh, [lora_file(str(file))])


def test_rank_stabilized_files_are_scaled_by_the_root_of_the_rank(base: Base, fresh: Base, tmp_path: Path) -> None:
    folder = as_peft(factors(base), tmp_path)
    (folder / "adapter_config.json").write_text(json.dumps({"lora_alpha": 1.5 / 2**0.5, "use_rslora": True}))
    add_loras_(fresh, [lora_file(str(folder))])
    for ours, expected in zip(outcome(fresh), outcome(by_hand(base, 1.0)), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)
