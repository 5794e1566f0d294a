"""Timestep samplers: densities by float64 twins, draws by their density, both ways into zones, and refusals."""

import json
import math
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist

import pytest
import torch

from quantbooth.diffusion.log_snr import LogSNR, log_snr
from quantbooth.diffusion.schedule import Schedule
from quantbooth.diffusion.scheduler_config import read_scheduler_config
from quantbooth.runtime.errors import UserError
from quantbooth.timesteps.samplers import Listed, LogitNormal, TimestepSampler, Uniform, listed
from quantbooth.timesteps.zones import Zones, equal_zones, zones_from_borders
from quantbooth_toyworld.shipped import base_folder

ALL = equal_zones(1, 1000)
APART = zones_from_borders({"low": [100, 300], "high": [600, 650]}, 1000)
STEP = Listed(tuple(float(t % 7) for t in range(1000)), "reject")
SAMPLERS = [Uniform(), LogitNormal(0.5, 0.8, "reject"), LogitNormal(-1.0, 2.0, "rescale"), STEP]


def drawn(sampler: TimestepSampler, zones: Zones, count: int) -> torch.Tensor:
    return sampler.draw(zones, count, torch.Generator().manual_seed(3))


def test_uniform_draws_bit_for_bit_as_zones_do() -> None:
    for zones in (ALL, APART):
        assert torch.equal(drawn(Uniform(), zones, 500), zones.draw(500, torch.Generator().manual_seed(3)))
    assert Uniform().describe() == {}


def test_logit_normal_is_the_mass_between_borders() -> None:
    loc, scale = 0.3, 0.9
    found, normal = LogitNormal(loc, scale, "reject").density(ALL), NormalDist(loc, scale)

    def below(u: float) -> float:
        return 0.0 if u == 0 else 1.0 if u == 1 else normal.cdf(math.log(u / (1 - u)))

    exact = [below((t + 1) / 1000) - below(t / 1000) for t in range(1000)]
    torch.testing.assert_close(found, torch.tensor(exact, dtype=torch.float64), rtol=1e-9, atol=1e-15)
    z = loc + scale * torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = torch.bincount((z.sigmoid() * 1000).long(), minlength=1000).double() / 200_000
    assert float((counts.cumsum(0) - found.cumsum(0)).abs().max()) < 1.63 / math.sqrt(200_000)  # Kolmogorov, 1 %


def test_a_mean_of_uniform_log_snr_is_refused() -> None:
    with pytest.raises(UserError, match=r"^timesteps.mean=0.5 needs timesteps.std"):
        log_snr(base_folder(), 0.5, None, "reject")


@pytest.mark.parametrize(("mean", "std"), [(0.0, None), (0.5, 1.5)])
def test_log_snr_is_the_mass_of_each_cell(mean: float, std: float | None) -> None:
    sampler = log_snr(base_folder(), mean, std, "reject")
    snr = Schedule(read_scheduler_config(base_folder())).snr().double()
    level = [math.log(float(value)) for value in snr]
    borders = [(a + b) / 2 for a, b in pairwise(level)]
    borders = [2 * level[0] - borders[0], *borders, 2 * level[-1] - borders[-1]]
    at = borders if std is None else [NormalDist(mean, std).cdf(border) for border in borders]
    mass = [a - b for a, b in pairwise(at)]
    exact = torch.tensor(mass, dtype=torch.float64) / sum(mass)
    torch.testing.assert_close(sampler.density(ALL), exact, rtol=1e-7, atol=1e-13)
    assert sampler.describe() == {"name": "log_snr", "mean": mean, "std": std, "within": "reject"}


@pytest.mark.parametrize("zones", [ALL, APART], ids=["all", "apart"])
@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_draws_have_the_density(sampler: TimestepSampler, zones: Zones) -> None:
    density, count = sampler.density(zones), 100_000
    t = drawn(sampler, zones, count)
    assert bool((zones.index(t) > 0).all()) and bool((density[t] > 0).all())
    assert float(density.sum()) == pytest.approx(1, abs=1e-12)
    share = torch.bincount(t, minlength=1000).double() / count
    assert float((share.cumsum(0) - density.cumsum(0)).abs().max()) < 1.63 / math.sqrt(count)
    assert torch.equal(t, drawn(sampler, zones, count))


def test_rejected_draws_have_the_truncated_density() -> None:
    whole, inside = STEP.density(ALL), APART.index(torch.arange(1000)) > 0
    torch.testing.assert_close(STEP.density(APART), torch.where(inside, whole, 0.0) / whole[inside].sum())
    t = drawn(STEP, ALL, 200_000)
    kept = t[APART.index(t) > 0]
    share = torch.bincount(kept, minlength=1000).double() / len(kept)
    assert float((share.cumsum(0) - STEP.density(APART).cumsum(0)).abs().max()) < 1.63 / math.sqrt(len(kept))


def test_rescaled_draws_are_a_monotone_map_of_those_of_all_timesteps() -> None:
    sampler, covered = LogitNormal(0.5, 0.8, "rescale"), (APART.index(torch.arange(1000)) > 0).nonzero()[:, 0]
    mapped = covered[torch.arange(1000) * len(covered) // 1000]
    assert bool((mapped.diff() >= 0).all()) and (int(mapped[0]), int(mapped[-1])) == (100, 649)
    pushed = torch.zeros(1000, dtype=torch.float64).index_add_(0, mapped, sampler.density(ALL))
    torch.testing.assert_close(sampler.density(APART), pushed)
    before, after = drawn(sampler, ALL, 5000), drawn(sampler, APART, 5000)  # the same numbers, by inverse functions
    assert torch.equal(mapped[before], after)
    assert torch.equal(sampler.density(ALL), LogitNormal(0.5, 0.8, "reject").density(ALL))


def test_a_density_of_zero_in_the_zones_is_refused() -> None:
    half = Listed(tuple(float(t < 50) for t in range(1000)), "reject")
    with pytest.raises(UserError, match=r"no weight in low \[100, 300\), high \[600, 650\), .*=rescale$"):
        half.density(APART)
    assert float(Listed(half.listed, "rescale").density(APART).sum()) == pytest.approx(1)


@pytest.mark.parametrize("sampler", [Listed((1.0, 2.0), "reject"), LogSNR((1.0, 0.0), 0.0, None, "reject")], ids=str)
def test_another_number_of_timesteps_is_refused(sampler: TimestepSampler) -> None:
    with pytest.raises(UserError, match=r"^(timesteps.path|base.timesteps) must .*\b(found|got) (2|1000)$"):
        sampler.density(ALL)


def test_files_say_the_same_in_every_form(tmp_path: Path) -> None:
    weights = [0.0, 2.5, 1e-3, 4.0]
    (tmp_path / "list.json").write_text(json.dumps(weights))
    (tmp_path / "keys.json").write_text(json.dumps({str(t): w for t, w in reversed(list(enumerate(weights)))}))
    (tmp_path / "rows.csv").write_text("timestep,weight\n" + "".join(f"{t},{w}\n" for t, w in enumerate(weights)))
    (tmp_path / "marked.csv").write_text((tmp_path / "rows.csv").read_text(), encoding="utf-8-sig")
    made = [listed(str(tmp_path / name), "reject") for name in ("list.json", "keys.json", "rows.csv", "marked.csv")]
    assert {one.listed for one in made} == {tuple(weights)}
    assert len({json.dumps(one.describe()) for one in made}) == 1
    assert made[0].describe() != Listed((0.0, 2.5, 1e-3, 4.1), "reject").describe()


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("w.json", "[1, -0.5]", "weights of 0 or more, found -0.5 of timestep 1$"),
        ("w.json", "[0, 0.0]", "a weight above 0, found only zeros$"),
        ("w.json", "[]", "a weight above 0"),
        ("w.json", "[1, true]", "numbers, found True as a weight$"),
        ("w.json", "[1, NaN]", "must be JSON, found: NaN, which is not finite"),
        ("w.json", "3", "found a int$"),
        ("w.json", '{"0": 1, "2": 1}', "a weight for every timestep, found none for 1$"),
        ("w.json", '{"0": 1, "0.0": 1}', "each timestep once, a whole number from 0, found 0.0$"),
        ("w.csv", "t,w\n0,1\n", "the columns timestep,weight, found t,w$"),
        ("w.csv", "timestep,weight\n0,1,2\n", "the columns timestep,weight, found 0,1,2$"),
        ("w.csv", "timestep,weight\n0,1\n0,2\n", "each timestep once"),
        ("w.csv", "timestep,weight\n0,inf\n", "numbers, found 'inf' as a weight$"),
        ("w.csv", "", "the columns timestep,weight, found $"),
        ("w.txt", "1", "must be a .json or .csv file"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, name: str, text: str, told: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=told) as caught:
        listed(str(tmp_path / name), "reject")
    assert str(tmp_path / name) in str(caught.value)
