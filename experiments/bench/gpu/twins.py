"""Layers on the card against float64 twins on the CPU."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.bench.gpu.methods import DEVICE
from quantbooth.quant.format import Grid
from quantbooth.quant.kernels.choice import EAGER, FUSED, use
from quantbooth.quant.layers import QuantizedConv2d, QuantizedLinear
from quantbooth.quant.observers import MinMaxObserver
from quantbooth.quant.packed_weight import Packed
from quantbooth.quant.scale_sets import Parts, attach_

__all__ = ["correctness", "same_weights"]

BITS = (2, 3, 4, 8)


def correctness(out: Path) -> str:
    """Each layer in float64 on the CPU against the card: y, dx, dg, as relative Frobenius errors."""
    rows = []
    for method in (EAGER, FUSED):
        for bits, kind in product(BITS, ("linear", "conv")):
            for kept in ("u", "y"):
                rows += _errors(method, bits, kind, kept)
    (out / "correctness.json").write_text(json.dumps(rows, indent=1))
    bad = [row for row in rows if not row["ok"]]
    worst = "".join(f"\n  {row}" for row in bad[:12])
    return f"correctness: {len(bad)} of {len(rows)} rows over their bound{worst}"


def _errors(method: str, bits: int, kind: str, kept: str) -> list[dict[str, Any]]:
    torch.manual_seed(bits)
    cls, made = (
        (QuantizedLinear, nn.Linear(320, 640)) if kind == "linear" else (QuantizedConv2d, nn.Conv2d(64, 96, 3, 2, 1))
    )
    layer: Any = nn.Sequential(cls.from_float(made, MinMaxObserver(Grid(bits)))).requires_grad_(False)
    selection = attach_(layer, 2, parts=Parts(inputs=True, biases=True))
    with torch.no_grad():
        for one in layer[0].parameters():
            one.add_(0.1 * torch.randn_like(one))
    layer[0].small_bias = kept == "y"
    x = torch.randn(3, *((77, 320) if kind == "linear" else (64, 17, 17)))
    index = torch.tensor([0, 2, 1])

    def run(device: str, dtype: torch.dtype) -> list[Tensor]:
        layer.to(device)
        layer.zero_grad()
        selection.choose(index.to(device))
        given = x.detach().clone().to(device, dtype).requires_grad_()
        y = layer(given)
        dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
        y.backward(dy)
        found: tuple[Any, ...] = (y, given.grad, layer[0].gain_out.grad, layer[0].gain_in.grad, layer[0].shift.grad)
        return [t.detach().double().cpu() for t in found]

    twin, rows = run("cpu", torch.float64), []
    for tf32 in (False, True):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        for dtype, most in ((torch.float32, 2e-3 if tf32 else 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)):
            about = {"kernels": method, "bits": bits, "kind": kind, "kept": kept, "dtype": str(dtype), "tf32": tf32}
            try:
                with use(method):
                    found = run(DEVICE, dtype)
                errors = [float((a - b).norm() / b.norm()) for a, b in zip(found, twin, strict=True)]
                rows.append(
                    about
                    | dict(zip(("y", "dx", "dg", "dg_in", "db"), errors, strict=True))
                    | {"ok": max(errors) < most}
                )
            except Exception as error:  # one row, the others still count
                rows.append(about | {"ok": False, "error": f"{type(error).__name__}: {str(error)[:200]}"})
    return rows


def same_weights() -> str:
    """Whether the dequantizing kernel gives the library's weight bit for bit."""
    count = different = 0
    for bits in BITS:
        for shape, split in (
            ((640, 320), ()),
            ((33, 70, 3, 3), (64, 6)),
            ((5, 2103), ()),
            ((320, 4, 3, 3), ()),
            ((64, 1280, 3, 3), (640, 640)),
        ):
            packed = Packed(bits, shape, split)
            scale, zero = packed.fit(torch.randn(shape), MinMaxObserver(Grid(bits)))
            codes = packed.store(torch.randint(0, 2**bits, shape, dtype=torch.uint8))
            c, s, z = (one.to(DEVICE) for one in (codes, scale, zero.to(torch.uint8)))
            for dtype in (torch.float32, torch.bfloat16, torch.float16):
                count += 1
                made = []
                for kernels in (EAGER, FUSED):
                    with use(kernels):
                        made.append(packed.weight(c, s, z, dtype))
                different += not torch.equal(*made)
    return f"weights: {different} of {count} differ from the library's in a bit"
