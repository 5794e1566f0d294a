"""The chain on bases that other packages quantized, from tuning to scores, and what it stored read again."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import quantbooth
from composing import composed
from experiments.reliability.tiny import QUICK
from quantbooth.commands import verify
from quantbooth.commands.pipeline import job
from quantbooth.evaluation.files import read_rows
from quantbooth.run.run import Run
from quantbooth.sampling.image_set import read_requests
from quantbooth.tuning.files import read_snapshot
from stored_bases import write_stored

pytestmark = pytest.mark.chain


@pytest.mark.parametrize("kind", ["nf4", "torchao_int4", "sdnq", "gguf"])
def test_a_stored_base_is_tuned_by_zones_and_drawn_again(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_stored(tmp_path / "base", kind)
    words = [word for word in QUICK if not word.startswith("calibration")]
    run = Run(
        composed(*words, "quant=as_stored", "strategy=s2", f"base.path={folder}", f"paths.outputs={tmp_path}/out")
    )
    scores = job(run.cfg)
    assert np.isfinite(read_rows(scores[-1])[["clip_t", "clip_i", "local_clip_i"]]).all(axis=None)
    tuned, images = run.only.tuned.require(), run.only.images(run.steps[-1]).require()
    assert "-as_stored-" in tuned.name
    assert run.only.tuned.manifest().parents == {}
    sets = read_snapshot(tuned, 2)
    assert {len(rows) for rows in sets.values()} == {3}
    assert any((rows != 1).any() for rows in sets.values())

    request = read_requests(images)[0]
    pipeline = quantbooth.load_pipeline(folder, tuned)
    pipeline.set_progress_bar_config(disable=True)
    noise = quantbooth.initial_noise([request.prompt], [request.seed], run.outline.latent_shape)
    steps, guidance = run.sampler.steps, run.sampler.guidance
    picture = pipeline(request.text, latents=noise, num_inference_steps=steps, guidance_scale=guidance).images[0]
    drawn = np.asarray(Image.open(images / request.file), dtype=int)
    assert np.abs(np.asarray(picture, dtype=int) - drawn).max() <= 1

    file = tuned / "step-000002.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    monkeypatch.setattr("sys.argv", ["quantbooth-verify", "--repair", str(run.store.root)])
    with pytest.raises(SystemExit) as ended:
        verify.main()
    assert (ended.value.code or 0, file.read_bytes()) == (0, whole)
