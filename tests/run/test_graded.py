"""A graded set in sampling: at each timestep the base with gains scaled by hand, with any share on top."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

import quantbooth
from quantbooth.commands.calibrate import calibrate
from quantbooth.commands.export import export
from quantbooth.commands.tune import tune
from quantbooth.diffusion.base import Base
from quantbooth.quant.selection import SetSelection
from quantbooth.run.models import tuned_base, untuned_base
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError
from quantbooth.tuning.files import read_snapshot

pytestmark = pytest.mark.chain

Configure = Callable[..., DictConfig]
QUICK = (
    *("base=folder", "base.resolution=32", "calibration=minmax", "sampler.steps=2", "prior=none"),
    *("preview.validation_steps=0", "tuner.steps=3", "tuner.learning_rate=0.2", "protocol.prompt_stride=25"),
    *("strategy=graded", "strategy.least=0.25", "trainer.precision=32-true"),
)
KINDS: dict[str, tuple[str, ...]] = {
    "scales": ("tuner=scales_in_out", "tuner.norms=true", "tuner.biases=true"),
    "qlora": ("tuner=qlora",),
    "lora": ("tuner=lora", "quant=fp"),
}


@pytest.fixture(scope="module")
def configure(compose: Callable[..., DictConfig], tmp_path_factory: pytest.TempPathFactory) -> Configure:
    make = partial(compose, tmp_path_factory.mktemp("graded") / "out", *QUICK)
    calibrate(Run(make()))
    for options in KINDS.values():
        tune(Run(make(*options)))
    return make


def predicted(base: Base, t: float) -> torch.Tensor:
    x = torch.randn(2, *base.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return base.predict(x, torch.tensor(t), base.encode_prompts(["a red mug", "a duck"]))


def by_hand(run: Run, share: float) -> Base:
    """The base with one set, whose steps are scaled before it is loaded, chosen for both rows."""
    base, selection = untuned_base(run), SetSelection()
    state = read_snapshot(run.only.tuned.require(), run.recipe.steps)
    run.tuner.load_(base, run.tuner.scaled(base, state, torch.tensor([share])), 1, selection)
    selection.choose(torch.tensor([1, 1]))
    return base


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_each_timestep_is_the_base_with_gains_scaled_by_hand(configure: Configure, kind: str, share: float) -> None:
    run = Run(configure(*KINDS[kind], f"strength={share}"))
    base, _ = tuned_base(run, run.recipe.steps)
    apart = []
    for t in (0.0, 300.0, 500.25, 999.0):
        expected = predicted(by_hand(run, share * (0.25 + 0.75 * (1000 - t) / 1000)), t)
        torch.testing.assert_close(predicted(base, t), expected, rtol=0, atol=2e-6)
        apart.append(float((expected - predicted(by_hand(run, share), t)).abs().max()))
    assert apart[0] == 0 and min(apart[1:]) > 1e-5


def test_the_unconditional_row_has_a_share_of_its_own(configure: Configure) -> None:
    run, whole = (Run(configure(*KINDS["qlora"], *more)) for more in (["unconditional_strength=0.0"], []))
    base, route = tuned_base(run, 3)
    assert route is not None
    route.choose(torch.zeros(1, dtype=torch.int64))
    expected = torch.cat([predicted(untuned_base(run), 300.0)[:1], predicted(tuned_base(whole, 3)[0], 300.0)[1:]])
    torch.testing.assert_close(predicted(base, 300.0), expected, rtol=0, atol=2e-6)


def test_a_loaded_pipeline_predicts_the_same(configure: Configure, base_folder: Path) -> None:
    run = Run(configure(*KINDS["scales"]))
    pipeline, (base, _) = quantbooth.load_pipeline(base_folder, run.only.tuned.require()), tuned_base(run, 3)
    x = torch.randn(1, *base.latent_shape, generator=torch.Generator().manual_seed(0))
    tokens = base.encode_prompts(["a duck"])
    for t in (10, 900):
        with torch.no_grad():
            theirs = pipeline.unet(x, t, encoder_hidden_states=tokens.tokens).sample
            ours = base.predict(x, torch.tensor(t), tokens)
        torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-6)


@pytest.mark.parametrize("more", [(), ("export.merged=true",), ("export.format=safetensors",)])
def test_an_export_says_that_float_weights_have_one_strength(
    configure: Configure, tmp_path: Path, more: tuple[str, ...]
) -> None:
    with pytest.raises(UserError, match=r"graded .* float weights .*load_pipeline"):
        export(Run(configure(*KINDS["scales"], f"export.folder={tmp_path}/out", *more)))
    assert not (tmp_path / "out").exists()
    untuned = [word for word in more if word != "export.merged=true"]  # the untuned base has one denoiser
    assert export(Run(configure(*KINDS["scales"], f"export.folder={tmp_path}/out", "export.step=0", *untuned))).is_dir()
