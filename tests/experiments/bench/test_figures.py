"""Figures that are counted: bytes of files, bytes that autograd keeps, medians, and that memory is read at all."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from experiments.bench.cases import Case, Setting
from experiments.bench.files import beside, file_bytes, learned
from experiments.bench.memory import STATUS, peak, reset_peak, resident
from experiments.bench.results import Row, is_done, merged, missing_row, read, row_of, to_json, write
from experiments.bench.saved_activations import kept_bytes
from quantbooth.runtime.errors import UserError


def test_a_file_has_the_size_it_has_when_written(tmp_path: Path) -> None:
    tensors = {
        "a.codes": torch.zeros(5, 3, dtype=torch.uint8),
        "a.gain_out": torch.ones(2, 5),
        "b": torch.zeros(7, dtype=torch.int8),
    }
    for names in (["a.codes"], ["a.gain_out", "b"], list(tensors)):
        part = {name: tensors[name] for name in names}
        save_file(part, tmp_path / "file")
        assert file_bytes(part) == (tmp_path / "file").stat().st_size
    assert file_bytes({}) == 0


def test_what_learns_and_what_lies_beside_it_are_the_whole() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    model[0].requires_grad_(False)
    assert set(learned(model)) == {"1.weight", "1.bias"}
    assert set(learned(model)) | set(beside(model)) == set(model.state_dict())


def test_kept_bytes_are_those_of_distinct_storages_that_are_not_the_models() -> None:
    layer, x = nn.Linear(8, 4, bias=False), torch.randn(2, 8)
    layer.register_buffer("x", x)
    assert kept_bytes(layer, lambda: layer(x).sum()) == 0  # the weight's gradient needs x, which is a buffer here
    y = torch.randn(2, 8)
    assert kept_bytes(layer, lambda: layer(y).sum()) == y.nbytes
    assert kept_bytes(layer, lambda: (layer(y) + layer(y.view(2, 8))).sum()) == y.nbytes
    assert kept_bytes(layer, lambda: layer(y).exp().sum()) == y.nbytes + 2 * 4 * 4


@pytest.mark.skipif(not STATUS.exists(), reason="resident memory is read from /proc")
def test_the_peak_begins_anew_and_sees_what_is_gone_again() -> None:
    held = torch.ones(64 << 20, dtype=torch.uint8)
    assert peak() >= resident() >= held.nbytes
    reset_peak()
    before = peak()
    torch.ones(128 << 20, dtype=torch.uint8)
    assert peak() - before > 100 << 20
    del held
    reset_peak()
    assert peak() < before


def test_a_row_holds_medians_after_the_warm_up_and_peaks_of_all_steps(tiny: Setting) -> None:
    seconds, peaks = [9.0, 1.0, 2.0, 6.0], [4.0, 3.0, 3.0, 5.0]
    steps = [
        {"forward": s, "backward": 2 * s, "optimizer": 0.5, "peak_rss_gb": gb, "cuda_peak_gb": None}
        for s, gb in zip(seconds, peaks, strict=True)
    ]
    built = {"import_rss_gb": 0.5, "build_rss_gb": 1.0, "trainable": 7, "file_mb": 1.0, "base_file_mb": 250.0}
    row = row_of(Case(tiny, "float"), built, steps, {"kept_gb": 0.1}, warm_up=1)
    figures = ("forward_s", "backward_s", "optimizer_s", "step_s", "peak_rss_gb", "cuda_peak_gb")
    assert [row[name] for name in figures] == [2.0, 4.0, 0.5, 6.5, 5.0, None]
    assert row["steps_s"] == [3.5, 6.5, 18.5]


def test_rows_are_kept_one_for_a_case_and_known_again_by_code_and_machine(
    tmp_path: Path, tiny: Setting, row_with: Callable[..., Row]
) -> None:
    case, other = Case(tiny, "float"), Case(tiny, "lora")
    row = row_with(case, [1.0], [1.0])
    write(
        tmp_path / "results.json", to_json(merged([row], [row_with(other, [1.0], [1.0]), row_with(case, [2.0], [1.0])]))
    )
    rows = read(tmp_path / "results.json")
    assert [(found["method"], found["step_s"]) for found in rows] == [("float", 2.0), ("lora", 1.0)]
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]
    assert is_done(case, rows, "abc", {"cpu": "x"})
    assert not is_done(case, rows, "abd", {"cpu": "x"})
    assert not is_done(case, rows, "abc", {"cpu": "y"})
    assert not is_done(Case(tiny, "floor"), rows, "abc", {"cpu": "x"})
    assert not is_done(case, [row_with(case, [1.0], [1.0], commit="abc-dirty")], "abc-dirty", {"cpu": "x"})
    failed = {**missing_row(case, "gone"), "commit": "abc", "machine": {"cpu": "x"}}
    assert not is_done(case, [failed], "abc", {"cpu": "x"})


def test_a_damaged_file_is_said_to_be_so(tmp_path: Path) -> None:
    assert read(tmp_path / "results.json") == []
    (tmp_path / "results.json").write_text("[{")
    with pytest.raises(UserError, match="results.json must be a list of rows in JSON"):
        read(tmp_path / "results.json")
