"""Training steps of the methods on the card: time, memory, kernels."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.bench.gpu.methods import HALF, UNETS, build, variant

__all__ = ["Setting", "profile", "row"]

WARM, STEPS = 4, 12


@dataclass(frozen=True)
class Setting:
    """One row: what is trained how, and on how many samples."""

    size: str
    method: str
    precision: str = "bf16"
    batch: int = 1
    checkpointing: bool = False

    @property
    def name(self) -> str:
        end = " checkpointed" if self.checkpointing else ""
        return f"{self.size} {self.method} {self.precision} batch {self.batch}{end}"


@contextmanager
def training(setting: Setting) -> Iterator[tuple[Callable[[], Tensor], list[Tensor], torch.optim.Optimizer, int]]:
    """A unet on the card with the forward of a step, what it trains, its optimizer, and the bytes before a step."""
    method = setting.method.removesuffix("_graph")
    last = method.endswith("_cl")
    half = HALF.get(setting.precision)
    unet, learned, selection = build(setting.size, method.removesuffix("_cl"), half or torch.float32)
    if setting.checkpointing:
        unet.enable_gradient_checkpointing()  # type: ignore[operator]
        unet.train()
    if last:
        unet.to(memory_format=torch.channels_last)
    batch, config = setting.batch, UNETS[setting.size]
    side, width = config["sample_size"], config["cross_attention_dim"]
    x, t = torch.randn(batch, 4, side, side, device="cuda"), torch.full((batch,), 500, device="cuda")
    text, more = torch.randn(batch, 77, width, device="cuda"), {}
    if setting.size == "sdxl":
        pooled, sizes = torch.randn(batch, 1280, device="cuda"), torch.randn(batch, 6, device="cuda")
        more = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}
    if last:
        x = x.to(memory_format=torch.channels_last)
    if selection is not None:
        selection.choose(torch.ones(batch, dtype=torch.long, device="cuda"))
    graph = setting.method.endswith("_graph")
    optimizer = torch.optim.AdamW(learned, lr=1e-4, weight_decay=0, foreach=True, capturable=graph)

    def forward() -> Tensor:
        with torch.autocast("cuda", half or torch.bfloat16, enabled=half is not None, cache_enabled=not graph):
            loss: Tensor = unet(x, t, encoder_hidden_states=text, **more).sample.float().square().mean()
        return loss

    with variant(setting.method):
        yield forward, learned, optimizer, torch.cuda.memory_allocated()


def row(setting: Setting) -> dict[str, Any]:
    """Measure a setting."""
    gc.collect()
    torch.cuda.empty_cache()
    try:
        with training(setting) as (forward, _, optimizer, built):
            torch.cuda.reset_peak_memory_stats()
            if setting.method.endswith("_graph"):
                found = _graphed(forward, optimizer)
            else:
                found = _eager(forward, optimizer, built)
            peak = torch.cuda.max_memory_allocated() / 1e9
            return setting.__dict__ | found | {"peak_gb": peak, "built_gb": built / 1e9, "error": ""}
    except Exception as error:  # out of memory, a missing package, a kernel that does not compile
        return setting.__dict__ | {"error": f"{type(error).__name__}: {str(error)[:160]}"}


def _eager(forward: Callable[[], Tensor], optimizer: torch.optim.Optimizer, built: int) -> dict[str, float]:
    times, kept = [], 0
    for step in range(WARM + STEPS):
        events = [torch.cuda.Event(enable_timing=True) for _ in range(4)]
        events[0].record()
        loss = forward()
        kept = torch.cuda.memory_allocated() - built
        events[1].record()
        loss.backward()
        events[2].record()
        optimizer.step()
        optimizer.zero_grad()
        events[3].record()
        torch.cuda.synchronize()
        if step >= WARM:
            times.append([events[i].elapsed_time(events[i + 1]) for i in range(3)])
    f, b, o = (statistics.median(column) for column in zip(*times, strict=True))
    return {"ms": f + b + o, "forward": f, "backward": b, "optimizer": o, "kept_gb": kept / 1e9}


def _graphed(forward: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> dict[str, float]:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM):
            forward().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        forward().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
    times = []
    for _ in range(STEPS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return {"ms": statistics.median(times)}


def profile(setting: Setting, out: Path) -> str:
    """Write the kernels of a step by time; say how many there are and what they and the CPU take."""
    gc.collect()
    torch.cuda.empty_cache()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with training(setting) as (forward, _, optimizer, _):
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
    name = f"profile-{setting.size}-{setting.method}.txt"
    (out / name).write_text(table.table(sort_by="self_device_time_total", row_limit=45, max_name_column_width=70))
    took = f"{busy:.1f} ms of the card, {wall * 1e3:.0f} ms profiled"
    return f"{setting.size} {setting.method}: {kernels_run} kernels, {took}"
