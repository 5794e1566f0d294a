"""The pre-training program on a tiny flow base: files, model card, resuming, going on from a folder."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from composing import composed
from quantbooth.diffusion.pretrained import load_base
from quantbooth.runtime.errors import UserError
from quantbooth_toyworld import pretrain
from quantbooth_toyworld.models import TRANSFORMER
from quantbooth_toyworld.pretraining import render_pool

pytestmark = pytest.mark.chain

Pretrain = Callable[..., Path]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretrain:
    """Runs the program on twelve scenes, with three rounds of two steps."""
    small = {"num_layers": 1, "attention_head_dim": 8, "num_attention_heads": 2, "caption_projection_dim": 16}
    monkeypatch.setattr("quantbooth_toyworld.models.TRANSFORMER", {**TRANSFORMER, **small})
    monkeypatch.setattr(pretrain, "render_pool", lambda count, seed, cache: render_pool(count, seed, cache, workers=0))
    monkeypatch.setattr(pretrain, "WATCHED", 1)
    monkeypatch.setattr(pretrain, "AVERAGE_FROM", 0)

    def run(*options: str) -> Path:
        quick = [
            f"models.toy_flow.rounds.{name}.{key}"
            for name in ("first", "second", "third")
            for key in ("steps=2", "batch=2")
        ]
        sampler = ["models.toy_flow.sampler.steps=2", "models.toy_flow.card.pictures=2", "validation_steps=2"]
        place = ["model=toy_flow", "scenes=12", f"paths.outputs={tmp_path}"]
        return pretrain.job(composed(*place, *quick, *sampler, *options, name="pretrain"))

    return run


def test_a_flow_base_is_trained_written_and_measured(program: Pretrain, tmp_path: Path) -> None:
    assets = program()
    made = load_base(assets / "base", "made")
    assert made.denoiser.config.num_layers == 1
    assert "StableDiffusion3Pipeline.from_pretrained(FOLDER, text_encoder_3=None" in (assets / "README.md").read_text()
    assert "| toy flow base |" in (assets / "README.md").read_text()
    for name in ("first", "second", "third"):
        assert (tmp_path / "pretrain" / "flow" / name / "samples" / "step-000002.png").is_file()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["start=x"], "^start is of model=toy_flow, got start=x with model=toy"),
        (["model=toy_flow", "begin_with=third"], "^begin_with leaves out rounds, and needs start=FOLDER.* got third"),
        (["model=toy_flow", "start=x", "begin_with=fifth"], "^begin_with must be one of first, .*third, got fifth"),
    ],
)
def test_a_start_without_effect_is_refused(tmp_path: Path, options: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        pretrain.job(composed(*options, f"paths.outputs={tmp_path}", name="pretrain"))
    assert not list(tmp_path.iterdir())


def test_a_finished_run_writes_the_same_again_and_a_start_is_another(program: Pretrain, tmp_path: Path) -> None:
    weights = Path("base") / "transformer" / "diffusion_pytorch_model.safetensors"
    assets = program("parts=[base]")
    first = (assets / weights).read_bytes()
    assert (program("parts=[base]") / weights).read_bytes() == first
    begun = load_base(assets / "base", "begun").denoiser.state_dict()
    places = [f"start={assets}/base", f"work={tmp_path}/more", f"assets={tmp_path}/further"]
    further = program("parts=[base]", "begin_with=third", *places)
    assert [path.name for path in (tmp_path / "more" / "flow").iterdir() if path.is_dir()] == ["third"]
    with pytest.raises(UserError, match=r"/flow has checkpoints of a training with another start or seed; choose an"):
        program("parts=[base]", f"start={assets}/base")
    changed = load_base(further / "base", "more").denoiser.state_dict()
    difference = max(float((changed[name] - tensor).abs().max()) for name, tensor in begun.items())
    assert 0 < difference < 0.05  # two warm-up steps
    assert all(torch.isfinite(tensor).all() for tensor in changed.values())
