"""Merging: shares of timesteps, folders by zone, and the measured difference of one denoiser to its parts."""

import copy

import pytest
import torch

from quantbooth.data.subjects import Subject
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.objective import mean_square, predict
from quantbooth.diffusion.schedule import Schedule
from quantbooth.evaluation.prediction_errors import draw_triples
from quantbooth.export.merging import TRIPLES, Merging, prediction_errors
from quantbooth.runtime.lightning import Loop
from quantbooth.timesteps.strategies import baseline, s1, s2
from quantbooth.timesteps.zones import Zones

S2 = s2({"clean_up": [0, 200], "con tent": [200, 750], "coarse": [750, 1000]}, False, 1000)
S1 = s1([300, 500], "base", 1000)


def test_each_set_has_its_share_and_a_folder_named_by_its_zone() -> None:
    merging = Merging(S2.stretches, S2.sampling_zones)
    assert merging.shares == {1: 0.2, 2: 0.55, 3: 0.25}
    assert merging.folders("unet") == {"unet_1_clean_up": 1, "unet_2_con-tent": 2, "unet_3_coarse": 3}
    assert merging.rows("unet") == [
        (0, 200, "unet_1_clean_up"),
        (200, 750, "unet_2_con-tent"),
        (750, 1000, "unet_3_coarse"),
    ]


def test_the_base_serves_what_no_zone_holds() -> None:
    merging = Merging(S1.stretches, S1.sampling_zones)
    assert merging.timesteps == 1000
    assert merging.shares == {0: 0.8, 1: 0.2}
    assert merging.folders("unet") == {"unet_0_base": 0, "unet_1_selected": 1}
    assert merging.rows("unet") == [
        (0, 300, "unet_0_base"),
        (300, 500, "unet_1_selected"),
        (500, 1000, "unet_0_base"),
    ]
    assert Merging(baseline(1000).stretches, baseline(1000).sampling_zones).rows("u") == [(0, 1000, "u")]


def test_names_of_zones_that_no_folder_can_have_are_changed() -> None:
    zones = s2({"a/b c": [0, 200], "rest": [200, 1000]}, False, 1000)
    assert set(Merging(zones.stretches, zones.sampling_zones).folders("unet")) == {"unet_1_a-b-c", "unet_2_rest"}


@pytest.mark.parametrize("served", [S2.sampling_zones, S1.sampling_zones], ids=["covering", "with gaps"])
def test_the_difference_is_that_of_both_predictions_by_zone(small_base: Base, served: Zones, loop: Loop) -> None:
    base = small_base
    photos = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    subject = Subject("rex", "dog", "sks", photos, photos, (), "x")
    other = copy.deepcopy(base.denoiser)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    found = prediction_errors(base, base.with_denoiser(other), subject, served, loop)
    names = (
        {"clean_up", "con tent", "coarse"}
        if served is S2.sampling_zones
        else {"base from 0", "selected", "base from 500"}
    )
    assert found.keys() == names
    assert prediction_errors(base, base, subject, served, loop)[min(names)][1] == 0
    name = "coarse" if served is S2.sampling_zones else "selected"
    schedule, latents = Schedule(base.scheduler_config), base.encode_images(photos)
    triples = [t for t in draw_triples(served, 33, 0) if t.zone == name]
    assert len(triples) == 33 >= TRIPLES
    x_0 = torch.stack([latents[triple.place % 3] for triple in triples])
    noise = torch.stack([triple.noise(x_0.shape[1:]) for triple in triples])
    t, text = torch.tensor([triple.t for triple in triples]), base.encode_prompts([subject.tuning_text] * 33)
    with torch.no_grad():
        one, two = (predict(each, schedule, x_0, noise, t, text) for each in (base, base.with_denoiser(other)))
    error = float(mean_square(one, schedule.target(x_0, noise, t)).mean())
    assert found[name][0] == pytest.approx(error, rel=1e-4)
    assert found[name][1] == pytest.approx(float(mean_square(one, two).mean()) / error, rel=1e-3)
