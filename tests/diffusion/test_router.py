"""The route of several subjects: every row uses the sets of its subject, and the base outside all zones."""

import pytest
import torch
from torch import nn

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.families.stable_diffusion import StableDiffusion
from quantbooth.diffusion.router import SubjectsRoute, route_
from quantbooth.quant.selection import SetSelection
from quantbooth.timesteps.zones import Zone, Zones

TWO = Zones((Zone("content", 200, 700), Zone("coarse", 700, 1000)), 1000)


class Network(nn.Module):
    """Takes what a denoiser takes."""

    def forward(self, sample: torch.Tensor, timestep: object) -> torch.Tensor:
        return sample


def test_every_subject_and_timestep_has_the_set_that_a_table_says() -> None:
    route = SubjectsRoute(TWO.index, 2, subjects=2)
    for subject, sets in enumerate([(0, 1, 2), (0, 3, 4), (0, 5, 6)]):
        for ts, k in zip([(0, 199), (200, 699), (700, 999)], sets, strict=True):
            for t in ts:
                route.choose(torch.tensor([subject]))
                assert route(torch.tensor([t])).tolist() == [k]
                assert route(torch.tensor([t + 0.25])).tolist() == [k]


def test_guidance_has_the_rows_twice_one_after_the_other() -> None:
    route, selection = SubjectsRoute(TWO.index, 2), SetSelection()
    denoiser = Network()
    route_(Base("x", StableDiffusion(), denoiser, None, (), {}), route, selection)
    route.choose(torch.tensor([1, 0, 2]))
    denoiser(torch.zeros(6, 1), 300)
    assert selection.choice.tolist() == [3, 1, 5, 3, 1, 5]
    denoiser(torch.zeros(3, 1), torch.tensor([100, 800, 300]))
    assert selection.choice.tolist() == [0, 2, 5]


def test_rows_that_nobody_chose_a_subject_for_are_refused() -> None:
    route = SubjectsRoute(TWO.index, 2, subjects=2)
    with pytest.raises(RuntimeError, match="a subject must be chosen for each of 2 rows, got nothing"):
        route(torch.tensor([1, 2]))
    route.choose(torch.tensor([0, 1]))
    with pytest.raises(RuntimeError, match="for each of 3 rows, got 2 rows"):
        route(torch.tensor([1, 2, 3]))


def test_what_was_chosen_is_a_copy() -> None:
    route, subjects = SubjectsRoute(TWO.index, 2), torch.tensor([0])
    route.choose(subjects)
    subjects += 1
    assert route(torch.tensor([500])).tolist() == [1]


def test_rows_of_a_single_subject_need_no_choice() -> None:
    assert (
        SubjectsRoute(TWO.index, 2)(torch.tensor([100, 500, 800])).tolist()
        == TWO.index(torch.tensor([100, 500, 800])).tolist()
    )


def test_shares_are_in_the_columns_of_the_subject_and_nothing_is_in_the_others() -> None:
    strengths = torch.tensor([[0.25, 0.5]])

    def shares(t: torch.Tensor) -> torch.Tensor:
        return strengths * (1 + t[:, None])

    t = torch.tensor([0, 1])
    assert SubjectsRoute(shares, 2)(t).tolist() == [[0.25, 0.5], [0.5, 1.0]]
    route = SubjectsRoute(shares, 2, subjects=3)
    route.choose(torch.tensor([2, 0]))
    assert route(t).tolist() == [[0, 0, 0, 0, 0.25, 0.5], [0.5, 1.0, 0, 0, 0, 0]]
    guided = SubjectsRoute(shares, 2, subjects=2, unconditional=True)
    guided.choose(torch.tensor([1]))
    assert guided(t).tolist() == [[0] * 6 + [0.25, 0.5], [0, 0, 0.5, 1.0] + [0] * 4]
    with route.untuned():
        assert route(torch.zeros(5)).tolist() == [0] * 5
