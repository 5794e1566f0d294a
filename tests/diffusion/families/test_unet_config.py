"""Configuration files of a base with a unet: what is unknown, unsupported or contradicting is refused by key."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantbooth.diffusion.families.registry import family_in
from quantbooth.diffusion.pretrained import check_base, check_sampler, empty_denoiser, load_base
from quantbooth.runtime.errors import UserError
from quantbooth_toyworld.shipped import base_folder

UNET, VAE, INDEX, TEXT = "unet/config.json", "vae/config.json", "model_index.json", "text_encoder/config.json"
WORDS, SECOND = "tokenizer/tokenizer_config.json", "text_encoder_2/config.json"
GONE = "no such key"
Edit = Callable[..., Path]


@pytest.fixture(scope="module")
def xl(written: Callable[[str], Path]) -> Path:
    return written("tiny-xl")


@pytest.fixture
def edited(xl: Path, tmp_path: Path) -> Edit:
    """Makes the configuration files of a base, toy or SDXL, with some keys of one file changed."""

    def make(kind: str, file: str, **changes: Any) -> Path:
        source = base_folder() if kind == "toy" else xl
        copy = Path(
            shutil.copytree(source, tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors", "vocab*"))
        )
        found = {**json.loads((copy / file).read_text()), **changes}
        (copy / file).write_text(json.dumps({key: value for key, value in found.items() if value != GONE}))
        return copy

    return make


REFUSED: list[tuple[str, str, dict[str, Any]]] = [
    *(
        ("toy", UNET, {key: 2})
        for key in ("class_embed_type", "num_class_embeds", "encoder_hid_dim", "time_cond_proj_dim")
    ),
    ("toy", UNET, {"encoder_hid_dim_type": "ip_image_proj"}),
    ("toy", UNET, {"attention_type": "gated"}),
    ("toy", UNET, {"addition_embed_type": "text_time"}),
    ("xl", UNET, {"addition_embed_type": None}),
    ("xl", UNET, {"addition_embed_type": "text_image"}),
    ("xl", UNET, {"projection_class_embeddings_input_dim": 56}),
    ("xl", UNET, {"addition_time_embed_dim": None}),
    ("toy", UNET, {"in_channels": 9}),
    ("toy", UNET, {"out_channels": 48}),
    ("toy", UNET, {"cross_attention_dim": 768}),
    ("toy", UNET, {"cross_attention_dim": [128, 64]}),
    *(("toy", UNET, {"sample_size": side}) for side in (None, 0, -8, "8", 8.5, [8, 16], [8], [], True, {"a": 8})),
    *(("xl", UNET, {"sample_size": side}) for side in (None, [8, 16])),
    ("toy", UNET, {"_class_name": "UNet2DModel"}),
    ("toy", UNET, {"auto_map": {"AutoModel": "x.Y"}}),
    ("toy", VAE, {"latents_mean": [0.0] * 4}),
    ("xl", VAE, {"latents_mean": [0.0] * 4}),
    ("xl", VAE, {"latents_std": [1.0] * 4}),
    ("toy", VAE, {"shift_factor": 0.5}),
    ("xl", VAE, {"shift_factor": 0.1}),
    ("toy", VAE, {"_class_name": "AutoencoderKL"}),
    ("toy", VAE, {"in_channels": 4}),
    *(("toy", VAE, {"upsampling_scaling_factor": factor}) for factor in (1, 4, None)),
    ("toy", VAE, {"upsample_fn": "nothing"}),
    ("toy", VAE, {"encoder_block_out_channels": [48, 48]}),
    *(("xl", VAE, {"scaling_factor": scale}) for scale in (None, 0, -1.0, "x", True)),
    *(("xl", VAE, {"block_out_channels": levels}) for levels in (None, "", 8)),
    *(("xl", VAE, {"latent_channels": count}) for count in (None, 0, "4")),
    ("toy", INDEX, {"custom_pipeline": "mine"}),
    ("toy", INDEX, {"auto_map": {}}),
    ("xl", INDEX, {"requires_aesthetics_score": True}),
    ("xl", INDEX, {"force_zeros_for_empty_prompt": "no"}),
    ("xl", INDEX, {"add_watermarker": True}),
    ("toy", INDEX, {"unet": ["my_unet", "MyUNet"]}),
    ("toy", INDEX, {"unet": "UNet2DConditionModel"}),
    ("toy", INDEX, {"scheduler": ["diffusers", "LCMScheduler"]}),
    ("toy", INDEX, {"scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}),
    ("toy", INDEX, {"text_encoder": ["transformers", "CLIPTextModelWithProjection"]}),
    ("xl", INDEX, {"text_encoder_2": ["transformers", "CLIPTextModel"]}),
    ("xl", INDEX, {"text_encoder_2": [None, None]}),
    ("toy", INDEX, {"tokenizer": ["transformers", "T5Tokenizer"]}),
    ("toy", INDEX, {"tokenizer": GONE}),
    ("toy", TEXT, {"use_attention_mask": True}),
    ("toy", TEXT, {"auto_map": {"AutoModel": "x.Y"}}),
    ("toy", TEXT, {"hidden_size": "x"}),
    ("xl", SECOND, {"projection_dim": 0}),
    *(("toy", WORDS, {"model_max_length": length}) for length in (GONE, 27, 10**30, None, "26", 0)),
    ("toy", WORDS, {"auto_map": {"AutoTokenizer": ["x.Y", None]}}),
]


@pytest.mark.parametrize(("kind", "file", "changes"), REFUSED, ids=lambda value: str(value)[:50])
def test_what_is_not_supported_is_refused_by_file_and_key(
    edited: Edit, kind: str, file: str, changes: dict[str, Any]
) -> None:
    folder, (key,) = edited(kind, file, **changes), changes
    with pytest.raises(UserError) as caught:
        family_in(folder).examine(folder)
    assert file in str(caught.value)
    assert key in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError):  # also where it is loaded, before weights, which are not there
        load_base(folder, "x")


HONOURED: list[tuple[str, str, dict[str, Any]]] = [
    ("toy", UNET, {"sample_size": [8, 8]}),
    ("toy", UNET, {"cross_attention_dim": [128, 128]}),
    ("toy", VAE, {"shift_factor": None, "latents_mean": GONE, "force_upcast": True, "block_out_channels": GONE}),
    ("xl", VAE, {"latents_mean": None, "latents_std": None, "scaling_factor": GONE, "force_upcast": True}),
    ("xl", VAE, {"use_quant_conv": False, "use_post_quant_conv": False}),
    ("xl", INDEX, {"force_zeros_for_empty_prompt": False, "add_watermarker": None}),
    ("toy", INDEX, {"scheduler": ["diffusers", "EulerAncestralDiscreteScheduler"], "_name_or_path": "x"}),
    ("toy", INDEX, {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}),
    ("toy", INDEX, {"tokenizer": ["transformers", "CLIPTokenizerFast"]}),
    ("toy", WORDS, {"model_max_length": 20}),
    ("toy", TEXT, {"use_attention_mask": False, "torch_dtype": "float16"}),
]


@pytest.mark.parametrize(("kind", "file", "changes"), HONOURED, ids=lambda value: str(value)[:50])
def test_what_bases_say_that_pipelines_honour_is_taken(
    edited: Edit, kind: str, file: str, changes: dict[str, Any]
) -> None:
    folder = edited(kind, file, **changes)
    check_base(folder, 32 if kind == "toy" else 64, 1000)


@pytest.mark.parametrize(
    "name", ["A", ["a", "b"], None, "StableDiffusionXLImg2ImgPipeline", "StableDiffusionInpaintPipeline"]
)
def test_a_pipeline_of_no_family_is_refused(edited: Edit, name: Any) -> None:
    with pytest.raises(UserError, match=r"the pipeline must be a text-to-image one of .*, found"):
        check_base(edited("toy", INDEX, _class_name=name), 32, 1000)


def test_side_and_timesteps_are_compared_with_the_options(edited: Edit) -> None:
    folder = edited("toy", UNET, sample_size=16)
    with pytest.raises(UserError, match=r"^base\.resolution must be 64, .*\(sample_size = 16 .*, got 32$"):
        check_base(folder, 32, 1000)
    with pytest.raises(UserError, match=r"^base\.timesteps must be 1000, got 50$"):
        check_base(folder, 64, 50)


def test_a_small_side_of_an_old_release_is_refused_as_diffusers_draws_larger(edited: Edit) -> None:
    with pytest.raises(UserError, match=r"sample_size = 8 of diffusers 0\.6\.0 is read as 64"):
        check_base(edited("toy", UNET, _diffusers_version="0.6.0"), 32, 1000)


def test_a_list_as_side_gives_the_latents_of_a_number(edited: Edit) -> None:
    denoiser = empty_denoiser(edited("toy", UNET, sample_size=[8, 8]))
    assert family_in(base_folder()).latent_shape(denoiser) == (24, 8, 8)


def test_a_sampler_is_made_of_the_files_alone(edited: Edit) -> None:
    folder = edited("toy", "scheduler/scheduler_config.json", use_karras_sigmas=True)
    check_sampler(folder, "dpm", 4)
    with pytest.raises(UserError, match="scheduler=ddim does not have use_karras_sigmas = true"):
        check_sampler(folder, "ddim", 4)


TEXTS = {
    "no object": "[1, 2]",
    "nan": '{"scaling_factor": NaN}',
    "nested nan": '{"block_out_channels": [8, NaN]}',
    "infinity": '{"scaling_factor": Infinity}',
    "sample_size": '{"sample_size": 8, "sample_size": 16}',
    "not readable": '{"a": ',
    "not readable JSON": '{"a": ' + "[" * 100_000,
    "at most": " " * (9 << 20),
}


@pytest.mark.parametrize("file", [UNET, VAE, INDEX, TEXT, WORDS, "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("case", TEXTS)
def test_json_that_is_not_plain_is_refused_by_file(edited: Edit, file: str, case: str) -> None:
    folder = edited("toy", file)
    (folder / file).write_text(TEXTS[case])
    with pytest.raises(UserError) as caught:
        family_in(folder).examine(folder)
    assert file in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
