"""Training steps of the methods on the card: time, memory, kernels."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from experiments.bench.gpu.methods import DEVICE, HALF, METHODS, UNETS, Built, build
from quantbooth.quant.format import Grid
from quantbooth.quant.kernels.choice import use
from quantbooth.quant.observers import MSEObserver
from quantbooth.quant.small_biases import find_small_biases, mark_small_biases_
from quantbooth.quant.surgery import quantize_
from quantbooth.tuning.graphs import Graphs
from quantbooth.tuning.optimizers import optimizer_factory

__all__ = ["Setting", "profile", "row", "search"]

WARM, STEPS = 3, 8


@dataclass(frozen=True)
class Setting:
    """One row: what is trained how, and on how many samples."""

    size: str
    method: str
    precision: str = "bf16"
    batch: int = 1
    checkpointing: bool = False
    graph: bool = True

    @property
    def name(self) -> str:
        end = (" checkpointed" if self.checkpointing else "") + (" graph" if self.graph else "")
        return f"{self.size} {self.method} {self.precision} batch {self.batch}{end}"


@contextmanager
def training(setting: Setting) -> Iterator[tuple[Callable[[], Tensor], torch.optim.Optimizer]]:
    """Yield the forward of a step on the card, and the optimizer."""
    method, half = METHODS[setting.method], HALF.get(setting.precision)
    built = _built(setting.size, setting.method, half or torch.float32)
    unet, batch, config = built.unet, setting.batch, UNETS[setting.size]
    if setting.checkpointing:
        unet.enable_gradient_checkpointing(_recomputed)  # type: ignore[operator]
    else:
        unet.disable_gradient_checkpointing()  # type: ignore[operator]
    side, width = config["sample_size"], config["cross_attention_dim"]
    x, t = torch.randn(batch, 4, side, side, device=DEVICE), torch.full((batch,), 500, device=DEVICE)
    text, more = torch.randn(batch, 77, width, device=DEVICE), {}
    if setting.size == "sdxl":
        pooled, sizes = torch.randn(batch, 1280, device=DEVICE), torch.randn(batch, 6, device=DEVICE)
        more = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}
    optimizer = optimizer_factory({"name": "adamw", "lr": 1e-4, "weight_decay": 0})([{"params": built.learned}])
    sets = torch.arange(batch, device=DEVICE) % method.sets + 1

    def forward() -> Tensor:
        if built.selection is not None:
            built.selection.choose(sets)
        with torch.autocast(DEVICE, half or torch.bfloat16, enabled=half is not None):
            loss: Tensor = unet(x, t, encoder_hidden_states=text, **more).sample.float().square().mean()
        return loss

    graphs = Graphs(unet, built.selection).replayed() if setting.graph else nullcontext()
    with use(method.kernels):
        mark_small_biases_(unet, find_small_biases(unet, forward))  # as a tuning does before its first step
        with graphs:
            yield forward, optimizer


_last: dict[tuple[str, str, torch.dtype], Built] = {}


def _built(size: str, method: str, dtype: torch.dtype) -> Built:
    """Build the unet of a method, or take the last one where it is the same: building SDXL takes long."""
    key = (size, method, dtype)
    if key not in _last:
        _last.clear()
        gc.collect()
        torch.cuda.empty_cache()
        _last[key] = build(size, METHODS[method], dtype)
    return _last[key]


def row(setting: Setting) -> dict[str, Any]:
    """Measure a setting."""
    gc.collect()
    torch._C._cuda_clearCublasWorkspaces()  # those of the last graph's stream
    torch.cuda.empty_cache()
    try:
        with training(setting) as (forward, optimizer):
            built = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            found = _measured(forward, optimizer, built)
            peak = {"peak_gb": torch.cuda.max_memory_allocated() / 1e9, "built_gb": built / 1e9}
            reserved = torch.cuda.memory_reserved() / 1e9
            return setting.__dict__ | found | peak | {"reserved_gb": reserved, "error": ""}
    except Exception as error:  # out of memory, a missing package, a kernel that does not compile
        _last.clear()
        return setting.__dict__ | {"error": f"{type(error).__name__}: {str(error)[:160]}"}


def _measured(forward: Callable[[], Tensor], optimizer: torch.optim.Optimizer, built: int) -> dict[str, float]:
    times, kept = [], 0
    for step in range(WARM + STEPS):
        events = [torch.cuda.Event(enable_timing=True) for _ in range(4)]
        torch.cuda.synchronize()
        began = time.perf_counter()
        events[0].record()
        loss = forward()
        kept = torch.cuda.memory_allocated() - built
        events[1].record()
        loss.backward()
        events[2].record()
        if any(one.grad is None for group in optimizer.param_groups for one in group["params"]):
            raise RuntimeError("a trained parameter has no gradient, so that this is no step of the method")
        optimizer.step()
        optimizer.zero_grad()
        events[3].record()
        torch.cuda.synchronize()
        wall = 1e3 * (time.perf_counter() - began)
        if step >= WARM:
            times.append([wall, *(events[i].elapsed_time(events[i + 1]) for i in range(3))])
    ms, f, b, o = (statistics.median(column) for column in zip(*times, strict=True))
    return {"ms": ms, "forward": f, "backward": b, "optimizer": o, "kept_gb": kept / 1e9}


def _recomputed(module: torch.nn.Module, *inputs: Any) -> Any:
    return checkpoint(module.__call__, *inputs, use_reentrant=False, preserve_rng_state=False)


def search(size: str) -> str:
    """Quantize a unet with the published search of scales, 80 points of L_2.4; say the seconds and the memory."""
    _last.clear()
    gc.collect()
    torch.cuda.empty_cache()
    with torch.device(DEVICE):
        unet: Any = UNet2DConditionModel(**UNETS[size]).eval()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    began = time.perf_counter()
    replaced = quantize_(unet, MSEObserver(Grid(4), lp_norm=2.4, points=80), exclude=["conv_in", "conv_out"])
    torch.cuda.synchronize()
    took, peak = time.perf_counter() - began, torch.cuda.max_memory_allocated() / 1e9
    return f"{size} search of scales: {len(replaced)} layers in {took:.1f} s, peak {peak:.2f} GB"


def profile(setting: Setting, out: Path) -> str:
    """Write the kernels of a step by time; say how many there are and what they and the CPU take."""
    gc.collect()
    torch.cuda.empty_cache()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with training(setting) as (forward, optimizer):
        for _ in range(3):
            forward().backward()
            optimizer.step()
            optimizer.zero_grad()
        torch.cuda.synchronize()
        start = time.perf_counter()
        with torch.profiler.profile(activities=activities) as found:
            forward().backward()
            optimizer.step()
            torch.cuda.synchronize()
        wall = time.perf_counter() - start
    table = found.key_averages()
    on_card = [event for event in table if str(event.device_type).endswith("CUDA")]
    kernels_run, busy = sum(e.count for e in on_card), sum(e.self_device_time_total for e in on_card) / 1e3
    name = f"profile-{setting.name.replace(' ', '-')}.txt"
    (out / name).write_text(table.table(sort_by="self_device_time_total", row_limit=45, max_name_column_width=70))
    took = f"{busy:.1f} ms of the card, {wall * 1e3:.0f} ms profiled"
    return f"{setting.name}: {kernels_run} kernels, {took}"
