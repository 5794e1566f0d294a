"""The peak of each stage of a run, and what it consists of: the stage's real modules on fake tensors."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.router import SubjectsRoute, route_
from quantbooth.planning.autocast import as_on_card, half_precision
from quantbooth.planning.live_bytes import LiveBytes, emptied_, fake
from quantbooth.planning.memo import Memo
from quantbooth.quant.group_offload import GroupOffload
from quantbooth.quant.kernels.choice import EAGER, FAKE, use
from quantbooth.quant.observers import ScaleSearch
from quantbooth.quant.selection import SetSelection
from quantbooth.quant.surgery import KINDS, Replaced, Splits, empty_like_
from quantbooth.timesteps.strategies import Strategy
from quantbooth.tuning.averaging import Average
from quantbooth.tuning.encoding import TrainablePrompt
from quantbooth.tuning.module import Rows, TuningModule
from quantbooth.tuning.recipe import Examples, OptimizerFactory, Recipe
from quantbooth.tuning.teacher import Teacher, frozen_copy
from quantbooth.tuning.tuner import Tuner

__all__ = [
    *("Peak", "Quantized", "Tuned", "calibrating", "counted", "encoding", "sampling", "scoring", "tuning", "warm_"),
]

CPU = torch.device("cpu")
PROMPT = "a photo"
PHOTOS = 4
Made = Callable[[], Base]
"""Makes the base on the meta device, with the denoiser of the run."""


@dataclass(frozen=True)
class Peak:
    """The most bytes of tensors at one time in a stage, and how many of them are what.

    Attributes:
        stage: its name.
        peak: bytes, without libraries.
        parts: bytes by name; what is left of the peak is the stage's own working memory.
        files: bytes of the files it writes, by name.
        flops: floating-point operations of products, of a batch in tuning and of a picture in sampling; 0: not counted.
    """

    stage: str
    peak: int
    parts: Mapping[str, int]
    files: Mapping[str, int] = field(default_factory=dict)
    flops: int = 0


@dataclass(frozen=True)
class Quantized:
    """How the denoiser is quantized: its layers, their bits and splits. No layers: float."""

    names: Sequence[str] = ()
    bits: int = 0
    splits: Splits = field(default_factory=dict)

    def apply_(self, denoiser: nn.Module) -> None:
        """Put empty quantized layers in the place of float ones."""
        layers = {name: denoiser.get_submodule(name) for name in self.names}
        weights = {name: tuple(layer.get_parameter("weight").shape) for name, layer in layers.items()}
        empty_like_(
            denoiser,
            [
                Replaced(name, type(layer).__name__, weights[name], self.bits, 0, 0, tuple(self.splits.get(name, ())))
                for name, layer in layers.items()
            ],
        )


@contextmanager
def counted(card: bool = False, fused: bool = False) -> Iterator[LiveBytes]:
    """Yield what counts inside the block, on fake tensors: of a CPU or a card, by PyTorch's kernels or Triton's."""
    with fake() as mode, LiveBytes(Memo(mode), copies=not card) as counter, use(FAKE if fused else EAGER):
        yield counter


def _tensors(*modules: nn.Module | None) -> list[Tensor]:
    return [tensor for one in modules if one is not None for tensor in (*one.parameters(), *one.buffers())]


def _held(counter: LiveBytes, *modules: nn.Module | None) -> int:
    """Give modules memory; return its bytes."""
    before = counter.live
    for module in modules:
        if module is not None:
            emptied_(module, CPU)
    return counter.live - before


def _denoiser(counter: LiveBytes, base: Base, offloaded: bool) -> dict[str, int]:
    """Give the denoiser memory, or what group offloading leaves on the device; return the bytes of its parts."""
    if not offloaded:
        return {"denoiser": _held(counter, base.denoiser)}
    offload = GroupOffload(base.denoiser, base.blocks())  # whose codes stay on the meta device
    rest, before = _held(counter, base.denoiser), counter.live
    offload.place_(CPU)
    return {"denoiser outside of blocks": rest, "two blocks": counter.live - before}


def calibrating(base: Base, quantized: Quantized, search: ScaleSearch) -> Peak:
    """Return the peak of rounding to the nearest code layer by layer: codes of all, and the largest layer at work."""
    denoiser = base.denoiser
    names = sorted(quantized.names, key=lambda name: -denoiser.get_submodule(name).get_parameter("weight").numel())
    largest = denoiser.get_submodule(names[0])
    with counted() as counter:
        emptied_(largest, CPU)
        counter.restart()
        KINDS[type(largest)].from_float(largest, search, tuple(quantized.splits.get(names[0], ())))
        working = counter.peak
    with counted() as counter:
        quantized.apply_(denoiser)
        codes = _held(counter, denoiser)
    written = sum(tensor.nbytes for tensor in denoiser.state_dict().values())
    parts = {"denoiser": codes, "largest layer": working}
    return Peak("calibration", codes + working, parts, {"quantized base": written})


def encoding(base: Base, card: bool) -> Peak:
    """Return the peak of encoding one photo and the prompts, before the denoiser is read."""
    with counted(card) as counter, torch.no_grad():
        parts = {
            "autoencoder": _held(counter, base.autoencoder),
            "text encoders": _held(counter, *base.text_encoders),
        }
        counter.restart()
        base.encode_prompts([PROMPT, PROMPT])
        base.encode_images(torch.empty(1, 3, base.side, base.side))
    return Peak("encoding", counter.peak, parts)


@dataclass(frozen=True)
class Tuned:
    """What decides a tuning step beside the base.

    Attributes:
        tuner: attaches what learns.
        strategy: its zones and sets.
        recipe: batch, teacher, EMA.
        optimizer: makes the optimizer.
        subjects: how many share the batch.
        checkpointing: of activations.
        offloaded: whether the device has the codes of two blocks alone.
        cached: whether latents and prompts are; else autoencoder and text encoders stay.
        identifier: whether its embedding learns.
        precision: `trainer.precision`.
        card: whether a CUDA device computes.
        fused: whether Triton's kernels compute there.
        save_dtype: of the saved parameters.
    """

    tuner: Tuner
    strategy: Strategy
    recipe: Recipe
    optimizer: OptimizerFactory
    subjects: int
    checkpointing: bool
    offloaded: bool
    cached: bool
    identifier: bool
    precision: str
    card: bool
    fused: bool
    save_dtype: torch.dtype


def tuning(made: Made, plan: Tuned) -> Peak:
    """Return the peak of a training step, with the optimizer's state of an earlier one."""
    zones, wide = plan.strategy.runs[0], plan.strategy.wide is not None
    selection, sets = SetSelection(), len(zones) + wide
    route = SubjectsRoute(partial(plan.strategy.chosen, zones), sets, plan.subjects)
    base = made()
    with counted(plan.card, plan.fused) as counter:
        parts = _denoiser(counter, base, plan.offloaded)
        text = _encoded(made())
        whole = plan.identifier or not plan.cached
        if whole:
            parts["autoencoder"] = _held(counter, base.autoencoder)
        if plan.identifier:
            parts["text encoders"] = _held(counter, *base.text_encoders)
        before = counter.live
        untuned = frozen_copy(base.denoiser_alone) if plan.recipe.needs_teacher and not plan.tuner.has_base else None
        parts["teacher"], before = counter.live - before, counter.live
        learning = plan.tuner.prepare_(base, sets, selection, plan.subjects)
        sentences = [TrainablePrompt(base, PROMPT)] if plan.identifier else None
        base = base if whole else base.denoiser_alone
        route_(base, route, selection)
        if plan.checkpointing:
            base.enable_gradient_checkpointing_()
        own = Teacher(base, route) if untuned is None else Teacher(untuned, None)
        examples = [_examples(base, text, plan.recipe) for _ in range(plan.subjects)]
        parts_of = (base, learning, examples, zones, plan.recipe, plan.optimizer, sentences, route)
        module = TuningModule(*parts_of, own if plan.recipe.needs_teacher else None)
        optimizer, before = plan.optimizer(plan.recipe.groups(learning)), counter.live
        parts["trained"] = before - sum(parts.values())
        warm_(optimizer, module.numbers)
        if plan.recipe.ema_decay is not None:
            module.average = Average(module.numbers, plan.recipe.ema_decay)
        parts["optimizer"] = counter.live - before
        return _step(counter, module, optimizer, {k: v for k, v in parts.items() if v}, plan)


def _step(
    counter: LiveBytes, module: TuningModule, optimizer: torch.optim.Optimizer, parts: dict[str, int], plan: Tuned
) -> Peak:
    """Take a step and count it."""
    rows = _rows(counter, module)
    counter.restart()
    before = counter.live
    with as_on_card(plan.card):
        with half_precision(plan.precision):
            loss = module.loss_of(rows).sum()
        parts["kept activations"] = counter.live - before
        loss.backward()
    optimizer.step()
    written = sum(one.numel() for one in module.numbers) * plan.save_dtype.itemsize
    return Peak("tuning", counter.peak, parts, {"what is tuned": written}, counter.flops)


def warm_(optimizer: torch.optim.Optimizer, numbers: Sequence[nn.Parameter]) -> None:
    """Let the optimizer make its state."""
    for one in numbers:
        one.grad = torch.empty_like(one)
    optimizer.step()
    optimizer.zero_grad()


def _encoded(base: Base) -> Conditioning:
    """Return the encoding of a prompt; the memory of the encoders is given back."""
    with torch.no_grad():
        for encoder in base.text_encoders:
            emptied_(encoder, CPU)
        return base.encode_prompts([PROMPT])


def _examples(base: Base, text: Conditioning, recipe: Recipe) -> Examples:
    """Return cached examples: four photos, and the class pictures."""
    return Examples(
        torch.empty(PHOTOS, *base.latent_shape), text, torch.empty(recipe.num_class_images, *base.latent_shape), text
    )


def _rows(counter: LiveBytes, module: TuningModule) -> Rows:
    """Return the rows of a batch of all subjects."""
    recipe, subjects = module.recipe, len(module.examples)
    count = recipe.batch * subjects
    texts = [one().expand(recipe.batch) for one in module.sentences]
    latents = (count, *module.base.latent_shape)
    is_prior = counter.mark(torch.empty(count), recipe.class_batch_size * subjects)
    return Rows(
        torch.empty(latents),
        Conditioning.cat(texts),
        torch.empty(latents),
        torch.empty(count, dtype=torch.int64),
        is_prior,
    )


def sampling(made: Made, plan: Tuned, batch: int, steps: int) -> Peak:
    """Return the peak of generating a batch of pictures in this many steps, after the text encoders left memory."""
    base, selection = made(), SetSelection()
    with counted(plan.card, plan.fused) as counter, torch.no_grad():
        parts = {**_denoiser(counter, base, plan.offloaded), "autoencoder": _held(counter, base.autoencoder)}
        one, before = _encoded(made()), counter.live
        if plan.tuner.has_base:
            plan.tuner.prepare_(base, plan.strategy.sets, selection, plan.subjects)
            selection.choose(torch.empty(2 * batch, dtype=torch.int64))
            parts["trained"] = counter.live - before
        noise = torch.empty(batch, *base.latent_shape)
        text = one.expand(2 * batch)
        counter.restart()
        with as_on_card(plan.card), half_precision(plan.precision):
            base.predict(torch.cat([noise, noise]), torch.empty(2 * batch), text)
        predicted = counter.flops
        base.family.decode_latents(base.autoencoder, noise)
    flops = (steps * predicted + counter.flops - predicted) // batch
    return Peak("sampling", counter.peak, parts, flops=flops)


def scoring(encoder: Any, side: int, batch: int, card: bool) -> Peak:
    """Return the peak of an image encoder on a batch of pictures of its size, in float32."""
    with counted(card) as counter, torch.no_grad():
        parts = {"encoder": _held(counter, encoder)}
        counter.restart()
        encoder.encode_image(torch.empty(batch, 3, side, side))
    return Peak("scoring", counter.peak, parts)
