"""The strength of what was tuned: 0 is the untuned base, 1 the tuned one, by zone, and of the unconditional row."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from quantbooth.commands.calibrate import calibrate
from quantbooth.commands.export import export
from quantbooth.commands.pipeline import check
from quantbooth.commands.sample import generate, sample
from quantbooth.commands.tune import tune
from quantbooth.diffusion.sampler import initial_noise
from quantbooth.run.models import tuned_base, untuned_base
from quantbooth.run.run import Run
from quantbooth.run.strength import Strength, strength_of
from quantbooth.runtime.errors import UserError
from quantbooth.sampling.image_set import Request, read_images
from quantbooth.sampling.module import SamplingModule, image_jobs
from quantbooth.timesteps.strategies import baseline, graded, s1s2, s2
from quantbooth.tuning.tuners import FullTuner, IdentifierTuner, ScaleTuner

Compose = Callable[..., DictConfig]
Configure = Callable[..., DictConfig]
QUICK = (
    *("base=folder", "base.resolution=32", "calibration=minmax", "sampler.steps=2", "prior=none", "strategy=s2"),
    *("base.zones={clean_up:[0,300],content:[300,800],coarse:[800,1000]}", "preview.validation_steps=0"),
    *("tuner.steps=3", "tuner.learning_rate=0.2", "protocol.prompt_stride=25", "trainer.precision=32-true"),
)
KINDS: dict[str, tuple[str, ...]] = {
    "scales": ("tuner=scales_in_out", "tuner.norms=true", "tuner.biases=true"),
    "qlora": ("tuner=qlora",),
    "lora": ("tuner=lora", "quant=fp"),
    "full": ("tuner=full", "quant=fp", "strategy=baseline"),
}
ZONES = {"clean_up": [0, 300], "content": [300, 800], "coarse": [800, 1000]}


@pytest.fixture(scope="module")
def configure(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Configure:
    make = partial(compose, tmp_path_factory.mktemp("strength") / "out", *QUICK)
    calibrate(Run(make()))
    for options in KINDS.values():
        tune(Run(make(*options)))
    return make


def predictions(run: Run, *at: int) -> torch.Tensor:
    """Return what the untuned base and that of a run predict at timesteps: [2, timesteps, rows, ...]."""
    untuned, (base, route) = untuned_base(run), tuned_base(run, 3)
    x = torch.randn(2, *base.latent_shape, generator=torch.Generator().manual_seed(0))
    prompts = base.encode_prompts(["a red mug", "a duck"])
    if route is not None and run.strength.unconditional is not None:
        route.choose(torch.zeros(1, dtype=torch.int64))
    with torch.no_grad():
        return torch.stack(
            [torch.stack([one.predict(x, torch.tensor(t), prompts) for t in at]) for one in (untuned, base)]
        )


@pytest.mark.chain
@pytest.mark.parametrize("kind", KINDS)
def test_none_of_it_is_the_untuned_base_and_one_the_tuned(configure: Configure, kind: str) -> None:
    options = KINDS[kind]
    (plain, none), (_, some), (_, whole) = (
        predictions(Run(configure(*options, *more)), 100, 500, 900) for more in (["strength=0.0"], ["strength=0.5"], [])
    )
    torch.testing.assert_close(none, plain, atol=1e-6, rtol=0)
    near, far = ((each - plain).flatten(1).norm(dim=1) for each in (some, whole))
    assert ((0.05 * far < near) & (near < 0.95 * far)).all()


@pytest.mark.chain
def test_a_share_of_a_zone_changes_that_zone_alone(configure: Configure) -> None:
    (plain, some), (_, tuned) = (
        predictions(Run(configure(*KINDS["scales"], *more)), 100, 500, 900) for more in (["strength={content:0.0}"], [])
    )
    torch.testing.assert_close(some, torch.stack([tuned[0], plain[1], tuned[2]]), atol=1e-6, rtol=0)


@pytest.mark.chain
@pytest.mark.parametrize("kind", ["scales", "qlora"])
def test_the_unconditional_row_has_a_share_of_its_own(configure: Configure, kind: str) -> None:
    guided, whole = (Run(configure(*KINDS[kind], *more)) for more in (["unconditional_strength=0.0"], []))
    (plain, rows), (_, tuned) = predictions(guided, 500), predictions(whole, 500)
    torch.testing.assert_close(rows[0], torch.cat([plain[0, :1], tuned[0, 1:]]), atol=1e-6, rtol=0)


@pytest.mark.chain
def test_float_weights_have_no_row_of_their_own(configure: Configure) -> None:
    with pytest.raises(UserError, match="unconditional_strength"):
        tuned_base(Run(configure(*KINDS["full"], "unconditional_strength=0.0")), 3)
    with pytest.raises(UserError, match="contents"):
        tuned_base(Run(configure(*KINDS["full"], "strength={contents: 1}")), 3)
    tuned_base(Run(configure(*KINDS["full"], "unconditional_strength=1.0")), 3)


@pytest.mark.chain
def test_pictures_have_names_of_their_own_and_nothing_is_tuned_again(configure: Configure) -> None:
    runs = [
        Run(configure(*KINDS["scales"], *more))
        for more in ([], ["strength=0.0"], ["unconditional_strength=0.0"], ["negative_prompt=a red duck"])
    ]
    assert len({run.only.tuned.path for run in runs}) == 1
    made = [sample(run) for run in runs]
    assert len({folders[1] for folders in made}) == 4 and len({folders[0] for folders in made}) == 2
    base, tuned = ([read_images([folders[step] / "000-0.png"]) for folders in made] for step in (0, 1))
    assert torch.equal(tuned[1], base[0]) and torch.equal(base[0], base[1])
    assert len({tuple(one.flatten().tolist()) for one in tuned}) == 4 and not torch.equal(base[3], base[0])
    assert [run.served_method for run in runs[:3]] == [runs[0].method + end for end in ("", "-x0", "-u0")]


def pictures(run: Run, step: int, texts: list[str], plain: list[str]) -> torch.Tensor:
    """Return what a run draws from one noise, the latter texts being those without the identifier."""
    base, route = tuned_base(run, step)
    requests = [Request("", *both, "one", "own", 0) for both in zip(texts, plain, strict=True)]
    module = SamplingModule(base, run.sampler, image_jobs(requests, Path()), route, "", run.strength.reward)
    return module.render(module.jobs)


@pytest.mark.chain
@pytest.mark.parametrize("kind", ["scales", "qlora", "lora"])
def test_reward_guidance_goes_from_the_untuned_base_to_guidance_by_it(configure: Configure, kind: str) -> None:
    texts, plain = ["a red sks mug", "a sks mug"], ["a red mug", "a mug"]
    drawn = {
        weight: pictures(Run(configure(*KINDS[kind], f"reward_guidance={weight}")), 3, texts, plain)
        for weight in (0, 2, 4)
    }
    untuned = pictures(Run(configure(*KINDS[kind])), 0, plain, plain)
    guided = pictures(Run(configure(*KINDS[kind], "unconditional_strength=0")), 3, texts, plain)
    torch.testing.assert_close(drawn[0], untuned, atol=1e-5, rtol=0)
    torch.testing.assert_close(drawn[4], guided, atol=1e-4, rtol=0)  # 4 is the weight of guidance
    assert all((drawn[2] - other).abs().max() > 1e-3 for other in (untuned, guided))


@pytest.mark.chain
def test_reward_guidance_needs_the_untuned_base_and_guides_alone(configure: Configure, tmp_path: Path) -> None:
    run = Run(configure(*KINDS["scales"], "reward_guidance=3"))
    assert run.served_method.endswith("-r3") and run.only.images(3) != Run(configure(*KINDS["scales"])).only.images(3)
    Strength(reward=3.0).of(baseline(1000), IdentifierTuner(ScaleTuner(), "a sks mug", "a mug"))
    for strength, tuner, named in (
        (Strength(reward=3.0), FullTuner(), "reward_guidance=3 .* full"),
        (Strength(reward=3.0, unconditional=0.5), ScaleTuner(), "reward_guidance=3 .* unconditional_strength, got 0.5"),
    ):
        with pytest.raises(UserError, match=named):
            strength.of(baseline(1000), tuner)
    with pytest.raises(UserError, match="reward_guidance"):
        export(Run(configure(*KINDS["scales"], "reward_guidance=3")))


@pytest.mark.chain
def test_prompts_of_ones_own_are_rewarded_without_the_identifier(configure: Configure, tmp_path: Path) -> None:
    own = (*KINDS["scales"], "prompt='a {} on a red rug'", f"pictures={tmp_path}")
    drawn = [generate(Run(configure(*own, *more)))[0] for more in ([], ["reward_guidance=0"])]
    run = Run(configure(*KINDS["scales"]))
    noise = initial_noise([f"a {run.only.subject.shown_as} on a red rug"], [0], untuned_base(run).latent_shape)
    plain = run.sampler.sample(untuned_base(run), [f"a {run.only.subject.class_word} on a red rug"], noise)
    whole, none = read_images(drawn)
    torch.testing.assert_close(none, plain[0], atol=1 / 255, rtol=0)
    assert not torch.equal(whole, none)


@pytest.mark.chain
def test_an_export_has_the_strength_in_it(configure: Configure, tmp_path: Path) -> None:
    made = [
        export(Run(configure(*KINDS["scales"], "export.merged=true", f"export.folder={tmp_path}", *more)))
        for more in ([], ["strength=0.5"])
    ]
    assert made[1].name == made[0].name + "-x0.5" or made[1].name.replace("-x0.5", "") == made[0].name
    for option in ("unconditional_strength=0.0", "negative_prompt=a duck"):
        with pytest.raises(UserError, match=option.partition("=")[0]):
            export(Run(configure(*KINDS["scales"], option)))


def test_a_zone_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="'contents'.* clean_up, content, coarse"):
        Strength({"contents": 0.5}).shares(s2(ZONES, False, 1000))
    assert Strength({"content": 0.5}).shares(s2(ZONES, False, 1000)).tolist() == [1.0, 0.5, 1.0]
    assert Strength({"wide": 0.5}).shares(s1s2(ZONES, None, 1000)).tolist() == [0.5, 1.0, 1.0, 1.0]
    assert Strength(0.25).shares(baseline(1000)).tolist() == [0.25]


def test_the_chain_refuses_it_before_any_work(compose: Compose, tmp_path: Path) -> None:
    run = Run(compose(tmp_path / "out", *QUICK, "strength={contents: 0.5}"))
    for command in (check, sample):
        with pytest.raises(UserError, match="contents"):
            command(run)
    assert not (tmp_path / "out" / "store").exists()


@pytest.mark.parametrize(
    ("strength", "name"),
    [
        (Strength(), ""),
        (Strength(1), ""),
        (Strength({"content": 1.0}), ""),
        (Strength(0.8), "-x0.8"),
        (Strength({"content": 0.8}, 0.0), "-content0.8-u0"),
        (Strength(1.0, 1.0), "-u1"),
        (Strength(0.5, reward=3.0), "-x0.5-r3"),
        (Strength({"content": 1.0, "elsewhere": 0.0}), "-content1-elsewhere0"),
        (Strength({"354-934": 1, "elsewhere": 0}), "-354-934x1-elsewhere0"),
        (Strength({"0-354": 0.5, "elsewhere": 1}), "-0-354x0.5"),
    ],
)
def test_names_and_identities_hold_what_is_not_usual(strength: Strength, name: str) -> None:
    assert strength.name == name and bool(strength.content) == bool(name)


@pytest.mark.parametrize(
    ("options", "name"),
    [((1, 1, None), ""), ((0.5, 0.5, None), "-x0.5"), ((0.5, 1, None), "-x0.5-u1"), ((1, 1, 3), "-u1-r3")],
)
def test_an_unconditional_share_that_says_the_same_of_all_makes_no_other_name(
    options: tuple[Any, ...], name: str
) -> None:
    given = dict(zip(("strength", "unconditional_strength", "reward_guidance"), options, strict=True))
    assert strength_of(given).name == name


@pytest.mark.parametrize(
    ("share", "named"),
    [
        ({"0-354": 1, "content": 0.5}, "0-354, content"),
        ({"300-300": 1}, "300"),
        ({"0-500": 1, "400-600": 0}, "400"),
        ({"900-1001": 1}, "1001"),
    ],
)
def test_intervals_that_say_nothing_clear_are_refused(share: dict[str, float], named: str) -> None:
    with pytest.raises(UserError, match=f"^strength.*{named}"):
        Strength(share).of(s2(ZONES, False, 1000), ScaleTuner())


def test_intervals_need_sets_and_one_unconditional_row() -> None:
    for strength, tuner in ((Strength({"0-354": 0}), FullTuner()), (Strength({"0-354": 0}, 0.5), ScaleTuner())):
        with pytest.raises(UserError, match="interval"):
            strength.of(baseline(1000), tuner)


def test_intervals_multiply_what_a_strategy_uses() -> None:
    t = torch.tensor([0, 299, 300, 850, 999])
    route = Strength({"200-300": 0.5, "300-900": 2, "elsewhere": 0}).route(s2(ZONES, False, 1000))
    assert route(t).tolist() == [[0, 0, 0], [0.5, 0, 0], [0, 2, 0], [0, 0, 2], [0, 0, 0]]
    shares = Strength({"0-500": 0.5}).route(graded(0.5, 1000))(t)
    assert torch.equal(shares, graded(0.5, 1000).route(t) * torch.tensor([0.5, 0.5, 0.5, 1, 1])[:, None])
