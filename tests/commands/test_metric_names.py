"""The table of names in docs/how-to/wandb.md: every logged value is in it, every row of it is logged."""

import csv
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from quantbooth import programs

SUBJECTS = ("toy_mug", "toy_duck")


@pytest.fixture
def dino(tmp_path: Path) -> Path:
    """A DINO with random weights."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(**sizes, image_size=32, patch_size=16)).save_pretrained(tmp_path / "dino")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "dino")
    return tmp_path / "dino"


def documented(repository: Path) -> dict[str, re.Pattern[str]]:
    """Return the names of the table; a word in capitals stands for any part."""
    text = (repository / "docs" / "how-to" / "wandb.md").read_text(encoding="utf-8")
    table = text[text.index("| value |") :].partition("\n\n")[0].splitlines()[2:]
    names = [name for row in table for name in re.findall(r"`([^`]+)`", row.split("|")[1])]
    return {name: re.compile(re.sub(r"[A-Z]+", r"[\\w.-]+", name)) for name in names}


@pytest.mark.chain
def test_the_table_has_every_name_and_every_name_is_logged(
    typed: Callable[..., tuple[int, str]], dino: Path, tmp_path: Path, repository: Path
) -> None:
    words = ["base=folder", "base.resolution=32", "sampler.steps=1", "prior=none", f"subjects=[{','.join(SUBJECTS)}]"]
    words += ["strategy=s2", "tuner.steps=2", "trainer.log_every_n_steps=1", "protocol.eval_steps=[1]"]
    words += ["protocol.prompt_stride=13", "protocol.seeds=[0,1]", "protocol.prior_prompts=1"]
    words += ["calibration=qdiffusion", "calibration.rounding.iterations=1", "calibration.rounding.batch=1"]
    words += ["calibration.set.count=1", "calibration.set.timesteps=1", "calibration.set.batch=1"]
    words += ["calibration.set.prompts=[a red mug]", "dino=dino_s16", f"dino.folder.path={dino}"]
    code, said = typed(programs.pipeline, *words)
    assert code == 0, said
    files = list((tmp_path / "out" / "logs" / "csv").rglob("metrics.csv"))
    assert len(files) == 2  # of calibration and of the setting
    columns = {name for file in files for name in next(csv.reader(file.open()))} - {"step"}
    logged = {re.sub(rf"^({'|'.join(SUBJECTS)})/", "", name) for name in columns}
    names = documented(repository)
    assert {name for name in logged if not any(pattern.fullmatch(name) for pattern in names.values())} == set()
    assert {name for name, pattern in names.items() if not any(map(pattern.fullmatch, logged))} == set()
    assert len(names) > 25
