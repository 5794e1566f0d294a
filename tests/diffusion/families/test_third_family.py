"""The family interface: a new family, defined in this file only, is loaded, routed, tuned and sampled.

A small transformer on a flow schedule: its call has other argument names, its time runs backwards in [0, 1], and its
prompts have a mask. `FAMILIES` lists it here only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from diffusers import AutoencoderTiny, DiffusionPipeline, FlowMatchEulerDiscreteScheduler, ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from quantbooth.calibration.blocks import blocks_of
from quantbooth.diffusion.base import Base, frozen
from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.families.registry import FAMILIES
from quantbooth.diffusion.lora_names import Names, parts_of
from quantbooth.diffusion.model import Family, Shape, TextEncoder
from quantbooth.diffusion.objective import denoising_error
from quantbooth.diffusion.pretrained import as_pipeline, empty_denoiser, load_base, save_base
from quantbooth.diffusion.router import route_
from quantbooth.diffusion.sampler import Sampler, initial_noise
from quantbooth.diffusion.sources import source_folder
from quantbooth.export.files import write_pipeline
from quantbooth.quant import scale_sets
from quantbooth.quant.selection import SetSelection
from quantbooth.quant.surgery import matching, quantize_
from quantbooth.runtime.errors import UserError
from quantbooth.timesteps.zones import zones_from_borders

PROMPTS = ["a red mug", "a duck"]
T = 1000
ZONES = zones_from_borders({"low": [0, 300], "high": [300, T]}, T)


class Block(nn.Module):
    """Mixes a picture's tokens with a prompt."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj, self.text = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        return x + torch.tanh(self.proj(x) + self.text(text))


class TinyTransformer(ModelMixin, ConfigMixin):
    """Takes hidden_states [b, c, h, w], a prompt with its mask, and a time that is 1 at the picture."""

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(self, channels: int = 24, side: int = 8, width: int = 16, text: int = 128) -> None:
        super().__init__()
        self.x_embedder, self.text_embedder = nn.Linear(channels, width), nn.Linear(text, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.proj_out = nn.Linear(width, channels)

    def forward(self, *, hidden_states: Tensor, prompt: Tensor, mask: Tensor, time: Tensor) -> tuple[Tensor]:
        words = (self.text_embedder(prompt) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        x = self.x_embedder(hidden_states.movedim(1, -1))
        for block in self.blocks:
            x = block(x, (words * (1 + time[:, None]))[:, None, None])
        return (self.proj_out(x).movedim(-1, 1),)


class TinyPipeline(DiffusionPipeline):
    """Holds the parts."""

    def __init__(self, vae: Any, transformer: Any, text_encoder: Any, tokenizer: Any, scheduler: Any) -> None:
        super().__init__()
        parts = {"vae": vae, "transformer": transformer, "text_encoder": text_encoder, "tokenizer": tokenizer}
        self.register_modules(**parts, scheduler=scheduler)


class Flow:
    """x_t = (1 - s) x_0 + s e with s = t / T; the target is e - x_0 (rectified flow, arXiv 2209.03003)."""

    timesteps = T

    def snr(self) -> Tensor:
        s = torch.arange(T) / T
        return ((1 - s) / s) ** 2

    def add_noise(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        s = (t / T).view(-1, *[1] * (x_0.ndim - 1))
        return (1 - s) * x_0 + s * noise

    def target(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return noise - x_0

    def origin(self, x_t: Tensor, predicted: Tensor, t: Tensor) -> Tensor:
        return x_t - t / T * predicted

    def bounded_inverse_weight(self, t: Tensor, bound: float) -> Tensor:
        return (1 / (1 - t / T) ** 2).clamp(max=bound)

    def first_timestep_below(self, snr: float) -> int:
        return int((self.snr() >= snr).sum())


class FlowEuler:
    """Diffusers' sampler of flows with what those of DDPM have."""

    init_noise_sigma = 1.0

    def __init__(self, steps: int) -> None:
        self.inner = FlowMatchEulerDiscreteScheduler()
        self.inner.set_timesteps(steps)
        self.timesteps = self.inner.timesteps

    def scale_model_input(self, x: Tensor, _t: Tensor) -> Tensor:
        return x

    def step(self, predicted: Tensor, t: Tensor, x: Tensor) -> Any:
        return self.inner.step(predicted, t, x)


@dataclass(frozen=True)
class Tiny(Family):
    """Knows `TinyPipeline`."""

    component = "transformer"
    denoiser_class = TinyTransformer
    text_classes: ClassVar[Any] = ((CLIPTextModel, CLIPTokenizer),)
    pipeline_class = TinyPipeline
    schedulers: ClassVar[Mapping[str, Any]] = {"flow_euler": FlowEuler}
    float_layers = ("x_embedder", "text_embedder", "proj_out")
    lora_prefixes = ("lora_transformer_",)

    def predict(self, denoiser: Any, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        time, mask = 1 - t.expand(len(x_t)) / T, conditioning.extra["mask"]
        found: Tensor = denoiser(hidden_states=x_t, prompt=conditioning.tokens, mask=mask, time=time)[0]
        return found

    def latent_shape(self, denoiser: Any) -> tuple[int, int, int]:
        return denoiser.config.channels, denoiser.config.side, denoiser.config.side

    def blocks(self, denoiser: nn.Module) -> list[str]:
        return [name for name, module in denoiser.named_modules() if isinstance(module, Block)]

    def schedule(self, scheduler_config: Mapping[str, Any]) -> Flow:
        return Flow()

    def call_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Any]:
        return kwargs["hidden_states"], kwargs["time"]

    def training_timestep(self, network_time: Tensor) -> Tensor:
        return ((1 - network_time) * T).round()

    def new_scheduler(
        self, name: str, scheduler_config: Mapping[str, Any], steps: int, latent_shape: tuple[int, int, int]
    ) -> FlowEuler:
        return FlowEuler(steps)

    def encode_prompts(self, encoders: Sequence[TextEncoder], prompts: Sequence[str], side: int) -> Conditioning:
        ids = encoders[0].ids(prompts)
        return Conditioning(encoders[0].network(ids)[0], {"mask": ids != encoders[0].tokenizer.pad_token_id})

    def examine(self, folder: Path) -> Shape:
        return Shape((24, 8, 8), 32, T)

    def pipeline(self, parts: Mapping[str, Any], scheduler_config: Mapping[str, Any]) -> TinyPipeline:
        return TinyPipeline(**parts, scheduler=FlowMatchEulerDiscreteScheduler.from_config(dict(scheduler_config)))


@pytest.fixture
def third(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Base:
    """A base of the family, read from a folder."""
    monkeypatch.setitem(FAMILIES, "TinyPipeline", Tiny)
    torch.manual_seed(0)
    scheduler = {"num_train_timesteps": T}
    made = Base("third", Tiny(), TinyTransformer(), base.autoencoder, base.encoders, scheduler)
    save_base(frozen(made), tmp_path / "third", torch.float32)
    return load_base(tmp_path / "third", "third")


def test_it_is_read_from_its_folder(third: Base, tmp_path: Path) -> None:
    assert third.family == Tiny()
    assert isinstance(third.denoiser, TinyTransformer)
    assert isinstance(third.autoencoder, AutoencoderTiny)
    assert (third.latent_shape, third.side, third.timesteps) == ((24, 8, 8), 32, T)
    assert all(parameter.is_meta for parameter in empty_denoiser(tmp_path / "third").parameters())
    assert source_folder(str(tmp_path / "third")) == tmp_path / "third"
    assert isinstance(as_pipeline(third), TinyPipeline)


def test_network_time_comes_back_as_the_training_timestep(third: Base) -> None:
    times: list[Tensor] = []
    third.denoiser.register_forward_pre_hook(lambda _m, _a, kwargs: times.append(kwargs["time"]), with_kwargs=True)
    t = torch.arange(T)
    third.predict(torch.zeros(T, 24, 8, 8), t, third.encode_prompts(["a"]).expand(T))
    assert float(times[0][0]) == 1
    assert torch.equal(third.family.training_timestep(times[0]), t.float())


def test_scale_sets_are_routed_by_its_own_time(third: Base) -> None:
    quantize_(third.denoiser, 4, exclude=third.float_layers)
    selection = SetSelection()
    scale_sets.attach_(third.denoiser, 2, selection)
    route_(third, ZONES.index, selection)
    third.predict(torch.zeros(4, 24, 8, 8), torch.tensor([0, 299, 300, 999]), third.encode_prompts(["a"]).expand(4))
    assert selection.choice.tolist() == [1, 1, 2, 2]


def test_a_step_of_tuning_moves_the_set_of_its_timesteps(third: Base) -> None:
    quantize_(third.denoiser, 4, exclude=third.float_layers)
    selection, draw = SetSelection(), torch.Generator().manual_seed(0)
    scale_sets.attach_(third.denoiser, 2, selection)
    route_(third, ZONES.index, selection)
    x_0, noise = torch.randn(2, 2, 24, 8, 8, generator=draw).unbind()
    t, conditioning = torch.tensor([400, 900]), third.encode_prompts(PROMPTS)
    errors = denoising_error(third, third.schedule, x_0, noise, t, conditioning)
    x_t = 1 - t.view(2, 1, 1, 1) / T
    x_t = x_t * x_0 + (1 - x_t) * noise
    expected = (third.predict(x_t, t, conditioning) - (noise - x_0)).square().mean((1, 2, 3))
    torch.testing.assert_close(errors, expected)
    errors.sum().backward()
    gains = scale_sets.parameters(third.denoiser)["gains"]
    assert len(gains) == 4
    assert all(gain.grad is not None and gain.grad[0].abs().max() == 0 < gain.grad[1].abs().max() for gain in gains)


def test_pictures_are_drawn_by_its_own_sampler(third: Base) -> None:
    noise = initial_noise(PROMPTS, [0, 1], third.latent_shape)
    sampler = Sampler("flow_euler", 4, 3.0)
    assert sampler.new_scheduler(third).timesteps[0] == T
    pictures = [sampler.sample(third, PROMPTS, noise) for _ in range(2)]
    assert torch.equal(*pictures)
    assert pictures[0].shape == (2, 3, 32, 32)


def test_calibration_finds_its_blocks(third: Base) -> None:
    layers = matching(third.denoiser, ["*"], third.float_layers)
    x, conditioning = torch.zeros(1, 24, 8, 8), third.encode_prompts(["a"])

    def call() -> Tensor:
        return third.predict(x, torch.tensor([5]), conditioning)

    units = blocks_of(third.denoiser, third.blocks(), layers, call)
    assert [(unit.name, len(unit.layers)) for unit in units] == [("blocks.0", 2), ("blocks.1", 2)]
    with pytest.raises(
        UserError, match=r"^quant\.split_skips=true needs skip connections, and a TinyTransformer has none$"
    ):
        third.skip_splits()


def test_files_call_it_as_diffusers_does(third: Base, tmp_path: Path) -> None:
    names = Names(third.family, parts_of(third))
    for key in ("transformer.blocks.0.proj.lora_A.weight", "lora_transformer_blocks_0_proj.lora_down.weight"):
        assert names.find(key) == (("transformer", "blocks.0.proj"), "A")
    state = third.denoiser.state_dict()
    write_pipeline(third, {"transformer": lambda: state}, [(0, T, "transformer")], tmp_path / "out", torch.float32)
    again = load_base(tmp_path / "out", "again")
    assert all(torch.equal(tensor, again.denoiser.state_dict()[name]) for name, tensor in state.items())


def test_a_sampler_of_another_family_is_refused(base: Base, third: Base) -> None:
    with pytest.raises(UserError, match=r"^sampler\.scheduler must be one of ddim, dpm, .* got 'flow_euler'$"):
        Sampler("flow_euler", 4, 3.0).new_scheduler(base)
