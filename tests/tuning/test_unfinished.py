"""Experts trained apart: their snapshots are joined in the order of their zones, for each subject."""

from pathlib import Path

import pytest
import torch

from quantbooth.store.store import Draft
from quantbooth.tuning.checkpoints import Unfinished
from quantbooth.tuning.files import read_snapshot
from quantbooth.tuning.tuners import LoraTuner, ScaleTuner, Tuner


@pytest.mark.parametrize("tuner", [ScaleTuner(), LoraTuner()], ids=["scales", "adapters"])
def test_row_k_of_what_is_joined_is_expert_k_of_that_subject(tmp_path: Path, tuner: Tuner) -> None:
    drafts = [Draft(tmp_path / name, tmp_path / "sets" / f"{name}-1", "1") for name in ("mug", "duck")]
    for draft in drafts:
        draft.path.mkdir()
    unfinished, name = Unfinished(drafts), "layer.lora_A" if isinstance(tuner, LoraTuner) else "layer.gain_out"
    for expert in range(3):
        for step in (1, 2):
            states = [{name: torch.full((1, 4), 30.0 * subject + 10.0 * step + expert)} for subject in range(2)]
            unfinished.part(expert).keep(step, states, torch.float32)
    unfinished.collect(tuner, 3, [1, 2], torch.float32)
    for subject, draft in enumerate(drafts):
        for step in (1, 2):
            expected = 30 * subject + 10 * step + torch.arange(3.0)[:, None].expand(3, 4)
            assert torch.equal(read_snapshot(draft.path, step)[name], expected)
