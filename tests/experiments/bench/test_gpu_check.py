"""The card's check runs on a CPU, so that no card's time is lost to it: its layers, its methods, its graphs."""

from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from experiments.bench.gpu import check, methods, steps, twins
from quantbooth.quant.layers import quantized_layers
from recorded import without_a_card

TINY: dict[str, Any] = {
    **{"sample_size": 8, "cross_attention_dim": 16, "block_out_channels": (16, 32), "layers_per_block": 1},
    **{"norm_num_groups": 4, "attention_head_dim": 2},
    **{"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")},
    **{"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")},
}
TOLD = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 1328}


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The card is the CPU, and a card's clocks and meters say 0."""
    without_a_card(monkeypatch)
    for module in (methods, steps, twins):
        monkeypatch.setattr(module, "DEVICE", "cpu")
    for name, value in {"_last": {}, "WARM": 1, "STEPS": 1}.items():
        monkeypatch.setattr(steps, name, value)
    monkeypatch.setitem(methods.UNETS, "sd15", TINY)
    monkeypatch.setitem(methods.UNETS, "sdxl", TINY | TOLD)
    monkeypatch.setattr(torch.cuda, "Event", lambda **_: MagicMock(elapsed_time=lambda _: 0.0))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", MagicMock())
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", MagicMock(), raising=False)


@pytest.mark.parametrize("name", {one.method: None for one in check.ROWS})
@pytest.mark.chain
def test_every_method_has_a_row(name: str) -> None:
    if name in ("lora", "lora_half", "qlora", "lora_sdnq"):
        pytest.importorskip("peft")
    if name == "lora_sdnq":
        pytest.importorskip("sdnq")
    if name == "qlora":
        pytest.skip("nf4 needs a card, or bitsandbytes' CPU kernels")
    size = "sdxl" if name == "ours" else "sd15"
    graph = any(one.graph for one in check.ROWS if one.method == name)
    found = steps.row(steps.Setting(size, name, "32", batch=3, graph=graph))
    assert found["error"] == ""
    assert found["ms"] > 0
    assert set(found) == set(check.COLUMNS)


def test_rows_in_half_precision_keep_what_a_tuning_keeps() -> None:
    found = steps.row(steps.Setting("sd15", "ours", "bf16", checkpointing=True, graph=False))
    assert found["error"] == ""
    (built,) = steps._last.values()
    assert any(one.small_bias for _, one in quantized_layers(built.unet))


def test_what_fails_is_a_row_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "build", MagicMock(side_effect=torch.OutOfMemoryError("no room")))
    assert steps.row(steps.Setting("sd15", "ours"))["error"] == "OutOfMemoryError: no room"


def test_layers_are_compared_in_every_precision_by_both_kernels_and_both_that_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Triton's interpreter both kernels are PyTorch's here, and a CPU has no TF32."""
    monkeypatch.setattr(twins, "BITS", (3,))
    assert twins.correctness(tmp_path) == "correctness: 0 of 48 rows over their bound"
    assert twins.same_weights().startswith("weights: 0 of 15 ")
