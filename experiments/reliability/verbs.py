"""Every command with the smallest settings there are, and the store that it finds."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha1
from importlib import import_module
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.reliability.tiny import write_tiny_base
from quantbooth import programs
from quantbooth.commands import verify

__all__ = ["VERBS", "Verb", "make_inputs"]

IMPORTED = [import_module(command.module) for command in programs.PROGRAMS.values()]
"""The code of the commands, imported before processes are forked."""
QUICK = (
    *("base=folder", "base.path={inputs}/base", "base.resolution=32", "paths.outputs=out", "sampler.steps=2"),
    *("trainer.log_every_n_steps=1", "preview.validation_steps=0", "resources.checkpoint_every=0"),
    *("protocol.eval_steps=[]", "protocol.prompt_stride=25", "protocol.seeds=[0]"),
)
TUNED = (*QUICK, "calibration=minmax", "strategy=s2", "tuner.steps=3", "prior.num_class_images=2")
LEARNED = (
    *("calibration=qdiffusion", "calibration.set.count=2", "calibration.set.timesteps=2"),
    *("calibration.set.batch=2", "calibration.set.prompts=[a red mug,a duck]", "calibration.rounding.iterations=2"),
    "calibration.rounding.batch=2",
)
SMALL_JUDGE = (
    "degradation.predictions=2",
    "degradation.pictures=2",
    "degradation.batch=2",
    "degradation.shown=2",
    "degradation.prompts=[a red mug,a blue duck]",
)


@dataclass(frozen=True)
class Verb:
    """A command, its words, the commands before it, its exit code without disturbance, what it says when it is done,
    other exit codes than 2 that it has for a fault.
    """

    main: Callable[[], object]
    words: tuple[str, ...]
    after: tuple[str, ...] = ()
    prepare: Callable[[Path], None] = field(default=lambda _: None)
    code: int = 0
    refuses: str = ""
    faulty: tuple[int, ...] = ()

    def typed(self, inputs: Path) -> list[str]:
        return [word.replace("{inputs}", str(inputs)) for word in self.words]


def damage(folder: Path) -> None:
    """Flip a byte in a file of several kinds of artifacts."""
    for pattern in ("scale_sets/*/step-*.safetensors", "image_set/*/*.png", "scores/*/rows.parquet"):
        file = sorted((folder / "out" / "store").glob(pattern))[0]
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)


def make_inputs(folder: Path) -> None:
    """Write the base and the photos, once."""
    if (folder / "ready").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    write_tiny_base(folder / "base")
    tree = []
    for number in range(5):
        file = folder / "photos" / "dataset" / "dog" / f"{number:02d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
        content = file.read_bytes()
        digest = sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        tree.append({"path": f"dataset/dog/{file.name}", "sha": digest})
    (folder / "photos" / "listing.json").write_text(json.dumps({"tree": tree}))
    (folder / "ready").touch()


CHAIN = ("tune", "sample", "evaluate")
VERBS = {
    "calibrate": Verb(programs.calibrate, (*QUICK, *LEARNED)),
    "tune": Verb(programs.tune, TUNED, ("calibrate_minmax",)),
    "sample": Verb(programs.sample, TUNED, ("calibrate_minmax", "tune")),
    "evaluate": Verb(programs.evaluate, TUNED, ("calibrate_minmax", "tune", "sample")),
    "report": Verb(
        programs.report,
        (*TUNED, "report.scores=[out/store/scores]", "report.folder=out/report"),
        ("calibrate_minmax", *CHAIN),
    ),
    "probe": Verb(
        programs.probe,
        (
            *(*QUICK, "quant=fp", "probe.questions=2", "probe.pairs=2", "probe.every=500", "probe.grid=2"),
            *(
                "probe.batch=2",
                "probe.prompts=[[a red mug,a blue mug],[a red duck,a blue duck]]",
                "probe.folder=out/probe",
                "probe.document=out/probe.md",
            ),
        ),
        code=2,  # a random base decides nothing, so its document is refused
    ),
    "degradation": Verb(
        programs.degradation,
        (
            *(*QUICK, *SMALL_JUDGE, "calibration=minmax"),
            *("degradation.folder=out/degradation", "degradation.document=out/degradation.md"),
        ),
    ),
    "export": Verb(
        programs.export, (*TUNED, "export.folder=out/export"), ("calibrate_minmax", "tune"), refuses="is there already"
    ),
    "data": Verb(
        programs.data,
        (
            *("dreambooth", "folder=out/photos", "source.listing=file://{inputs}/photos/listing.json"),
            "source.files=file://{inputs}/photos",
        ),
    ),
    "verify": Verb(verify.main, ("out/store", "--repair"), ("calibrate_minmax", *CHAIN), damage, faulty=(1,)),
    "calibrate_minmax": Verb(programs.calibrate, TUNED),
}
