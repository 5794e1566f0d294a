"""Snapshots on disk: exact, at the saved steps, with the strategy of the run."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from quantbooth.runtime.errors import UserError
from quantbooth.store.manifest import FORMAT, Manifest
from quantbooth.timesteps.strategies import Strategy, baseline, s1, s2
from quantbooth.tuning.files import precision_of, read_snapshot, snapshot_path, strategy_of, write_snapshot

ZONES = {"clean_up": [0, 200], "content": [200, 700], "coarse": [700, 1000]}


def test_numbers_come_back_to_the_last_bit_also_those_lying_across(tmp_path: Path, generator: torch.Generator) -> None:
    state = {"a.b": torch.randn(3, 5, generator=generator), "c": torch.randn(4, 6, generator=generator).T}
    write_snapshot(tmp_path, 200, state)
    again = read_snapshot(tmp_path, 200)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)


def test_half_the_precision_is_half_the_file_and_gains_stay_within_it(
    tmp_path: Path, generator: torch.Generator
) -> None:
    gains = 1 + 0.2 * torch.randn(2, 3000, generator=generator)
    write_snapshot(tmp_path, 1, {"a.gain_out": gains, "identifier.7": torch.arange(3)})
    write_snapshot(tmp_path, 2, {"a.gain_out": gains, "identifier.7": torch.arange(3)}, torch.float16)
    again = read_snapshot(tmp_path, 2)
    assert again["a.gain_out"].dtype == torch.float16
    assert torch.equal(again["identifier.7"], torch.arange(3))
    assert float(((again["a.gain_out"].double() - gains) / gains).abs().max()) <= 2**-11
    whole, half = (snapshot_path(tmp_path, step).stat().st_size for step in (1, 2))
    assert whole - half == 2 * gains.numel()


def test_numbers_too_large_for_half_the_precision_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^'a' has numbers too large for resources.save_dtype=float16; choose float32$"
    ):
        write_snapshot(tmp_path, 1, {"a": torch.tensor([1.0, 1e6])}, torch.float16)
    assert not list(tmp_path.iterdir())


def test_a_step_that_was_not_kept_is_refused_naming_those_that_were(tmp_path: Path) -> None:
    for step in (50, 1000, 200):
        write_snapshot(tmp_path, step, {"a": torch.zeros(1)})
    with pytest.raises(UserError, match=rf"^{tmp_path.name} keeps the steps 50, 200, 1000, not 100; see protocol"):
        read_snapshot(tmp_path, 100)


def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path) -> None:
    snapshot_path(tmp_path, 5).write_bytes(b"not safetensors at all")
    with pytest.raises(UserError, match=r"step-000005\.safetensors cannot be read: "):
        read_snapshot(tmp_path, 5)


def test_a_header_of_which_nothing_is_read_is_refused_by_file_and_key(tmp_path: Path) -> None:
    save_file({"a.gain_out": torch.ones(1)}, snapshot_path(tmp_path, 5), metadata={"strategy": "s9"})
    with pytest.raises(UserError, match=r"step-000005\.safetensors: __metadata__\.strategy: unknown key, found 's9'"):
        read_snapshot(tmp_path, 5)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool], ids=str)
def test_parameters_that_are_no_floating_point_numbers_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    save_file({"layer.gain_out": torch.ones(1, 3, dtype=dtype)}, snapshot_path(tmp_path, 5))
    with pytest.raises(UserError, match=rf"layer\.gain_out .* found {str(dtype)[6:]}"):
        read_snapshot(tmp_path, 5)


def test_files_sort_as_their_steps_do(tmp_path: Path) -> None:
    names = [snapshot_path(tmp_path, step).name for step in (9, 80, 700, 6000)]
    assert names == sorted(names)


@pytest.mark.parametrize("strategy", [baseline(1000), s1([200, 700], "tuned", 1000), s2(ZONES, True, 1000)])
def test_the_strategy_comes_back_and_routes_alike(strategy: Strategy) -> None:
    contents = {"strategy": json.loads(json.dumps(strategy.describe()))}
    again = strategy_of(Manifest("scale_sets", FORMAT, "name", "f" * 64, {}, contents, "0", {}))
    t = torch.arange(1000)
    assert again == strategy
    assert torch.equal(again.route(t), strategy.route(t))


@pytest.mark.parametrize("contents", [{}, {"strategy": 3}, {"strategy": {"name": "s1"}}])
def test_a_manifest_without_a_strategy_is_refused(contents: dict[str, object]) -> None:
    with pytest.raises(UserError, match="^a-run must say with which strategy it was tuned: "):
        strategy_of(Manifest("scale_sets", FORMAT, "a-run", "f" * 64, {}, contents, "0", {}))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30, -101.0])
def test_gains_that_no_tuning_makes_are_refused_by_name(tmp_path: Path, value: float) -> None:
    write_snapshot(tmp_path, 3, {"layer.gain_out": torch.tensor([[1.0, 99.0]]), "layer.shift": torch.tensor([[1e5]])})
    assert read_snapshot(tmp_path, 3)["layer.gain_out"].tolist() == [[1.0, 99.0]]
    write_snapshot(tmp_path, 3, {"layer.gain_out": torch.tensor([[1.0, value]])})
    with pytest.raises(UserError, match=r"step-000003\.safetensors: .*layer\.gain_out"):
        read_snapshot(tmp_path, 3)


def test_a_precision_is_that_of_its_name() -> None:
    assert (precision_of("float32"), precision_of("float16")) == (torch.float32, torch.float16)
