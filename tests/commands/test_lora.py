"""LoRA files of others in sampling: alone and beside scale sets, their own pictures, and nothing else made anew."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import save_file

from quantbooth.commands.calibrate import calibrate
from quantbooth.commands.evaluate import record_of
from quantbooth.commands.sample import generate, sample
from quantbooth.commands.tune import tune
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError
from quantbooth.store.files import fingerprint
from quantbooth.store.store import LONGEST

Configure = Callable[..., DictConfig]
Compose = Callable[..., DictConfig]
QUICK = (
    *("base=folder", "base.resolution=32", "calibration=minmax", "sampler.steps=2", "prior=none", "strategy=s2"),
    *("tuner.steps=2", "preview.validation_steps=0", "tuner.learning_rate=0.2", "protocol.prompt_stride=25"),
)
LAYER = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_v"


@pytest.fixture(scope="module")
def style(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that changes one layer of the tiny base much."""
    path = tmp_path_factory.mktemp("lora") / "style.safetensors"
    generate = torch.Generator().manual_seed(0)
    halves = {"A": torch.randn(2, 8, generator=generate), "B": torch.randn(8, 2, generator=generate)}
    save_file({f"{LAYER}.lora_{half}.weight": 30 * tensor for half, tensor in halves.items()}, path)
    return path


@pytest.fixture(scope="module")
def configure(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Configure:
    """Makes a configuration on a tiny untrained base that is tuned already; all share one store."""
    make = partial(compose, tmp_path_factory.mktemp("with_lora") / "out", *QUICK)
    calibrate(Run(make()))
    tune(Run(make()))
    return make


def pictures(folder: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted(folder.glob("*.png"))]


@pytest.mark.parametrize("float_base", [False, True])
@pytest.mark.chain
def test_a_file_changes_pictures_of_the_untuned_and_the_tuned_base(
    configure: Configure, style: Path, float_base: bool
) -> None:
    words = ("quant=fp", "tuner=full", "strategy=baseline", "tuner.learning_rate=0.001") if float_base else ()
    tune(Run(configure(*words)))
    plain = sample(Run(configure(*words)))
    times = {folder: folder.stat().st_mtime_ns for folder in plain}
    added = sample(Run(configure(*words, f"lora=[{style}]")))
    half = sample(Run(configure(*words, f"lora=[{style}:0.5]")))
    assert len(plain) == len(added) == 2
    for folders in zip(plain, added, half, strict=True):
        found = [pictures(folder) for folder in folders]
        assert len(found[0]) > 0
        assert all(one != other for i, one in enumerate(found) for other in found[i + 1 :])
    assert sample(Run(configure(*words, f"lora=[{style}]"))) == added
    assert times == {folder: folder.stat().st_mtime_ns for folder in sample(Run(configure(*words)))}


def test_only_pictures_and_their_scores_have_it_in_their_identity(
    configure: Configure, style: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "another name.safetensors"
    elsewhere.write_bytes(style.read_bytes())
    plans = [Run(configure(*words)) for words in ((), (f"lora=[{style}]",), (f"lora=['{elsewhere}']",))]
    without, added, moved = (plan.only for plan in plans)
    for one, other in ((without.tuned, added.tuned), (without.prior, added.prior)):
        assert one.identity == other.identity
    assert without.run.untuned == added.run.untuned
    for step, before in ((0, {"base", "quantized_base"}), (2, {"tuned", "step"})):
        assert set(without.images(step).identity) == {*before, "subject", "protocol", "sampler"}
        expected = {**without.images(step).identity, "lora": [added.run.loras[0].identity]}
        assert added.images(step).identity == expected == moved.images(step).identity
        assert without.scores(step).identity != added.scores(step).identity
        assert fingerprint(added.images(step).identity) != fingerprint(without.images(step).identity)


def test_tables_tell_the_weights_that_were_drawn_with(configure: Configure, style: Path) -> None:
    plan = Run(configure(f"lora=[{style},{style}:0.5]"))
    folder = plan.store.root / "some"
    assert [record_of(plan.only, step, folder).quant for step in (0, 2)] == ["w4+style+style:0.5"] * 2
    assert [record_of(plan.only, step, folder).method for step in (0, 2)] == ["base", "s2-scales_in_out"]
    assert plan.only.images(2).label.endswith("-step2-with-style-with-style-0.5")


def test_a_persons_own_sentences_are_drawn_with_it_too(configure: Configure, style: Path, tmp_path: Path) -> None:
    words = ("prompt=a dog", "protocol.seeds=[0]", f"pictures={tmp_path}")
    one, other = (generate(Run(configure(*words, *added)))[0] for added in ((), (f"lora=[{style}]",)))
    assert one != other
    assert one.read_bytes() != other.read_bytes()
    assert generate(Run(configure(*words)))[0] == one


def test_a_file_that_matches_nothing_is_refused_and_leaves_no_pictures(configure: Configure, tmp_path: Path) -> None:
    save_file({"lora_unet_other.alpha": torch.ones(1)}, tmp_path / "other.safetensors")
    cfg = configure(f"lora=[{tmp_path}/other.safetensors]")
    sets = Path(cfg.paths.store) / "image_set"
    before = sorted(sets.glob("*"))
    with pytest.raises(
        UserError, match=r"other.safetensors matches nothing of this base: it holds 'lora_unet_other.alph"
    ):
        sample(Run(cfg))
    assert sorted(sets.glob("*")) == before


def test_what_is_no_file_is_refused_before_anything_is_made(configure: Configure) -> None:
    with pytest.raises(UserError, match=r"^lora: no file or folder at nowhere\.safetensors$"):
        sample(Run(configure("lora=[nowhere.safetensors]")))


def test_files_of_long_names_have_a_place(configure: Configure, style: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"{'a_style_of_somebody_' * 3}{number}.safetensors" for number in range(3)]
    for file in files:
        file.write_bytes(style.read_bytes())
    images = Run(configure(f"lora=[{','.join(map(str, files))}]", "strength={100-200:0.5}")).only.images
    assert [len(images(step).label) for step in (0, 2)] == [LONGEST] * 2
    assert images(0).path.parent == images(2).path.parent
