"""Do the metrics mean anything? python -m experiments.metric_validity SCORES... [--locators whole toy toy-grey]

Reads scores of any store (folders of scores, or the store that holds them), looks up which truth each metric should
follow, and writes rank correlations with intervals. `--locators` scores the pictures again with other locators.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from lightning.pytorch import Trainer
from omegaconf import DictConfig, OmegaConf

from experiments.rank_correlation import Variant, differences_table, validity_table
from experiments.validity_plot import scatter
from quantbooth.data.subjects import Subject
from quantbooth.evaluation.encoders import Encoder
from quantbooth.evaluation.files import Record, read_measured, read_record
from quantbooth.evaluation.locators import Locator
from quantbooth.evaluation.module import EvaluationModule
from quantbooth.evaluation.scorer import Scorer
from quantbooth.reporting.columns import score_named
from quantbooth.reporting.inference import FEWEST
from quantbooth.runtime.config import build, conf_dir
from quantbooth.runtime.draws import index_loader
from quantbooth.runtime.errors import UserError
from quantbooth.sampling.image_set import UNRELATED, read_requests
from quantbooth.store.manifest import MANIFEST, open_artifact

__all__ = ["Scored", "main", "rescored", "scored", "tables", "variants_of", "wide"]

TRUTHS = {
    "clip_t": "oracle_prompt",
    "clip_i": "oracle_subject",
    "local_clip_i": "oracle_subject",
    "dino": "oracle_subject",
    "local_dino": "oracle_subject",
}
"""Which truth each metric should follow."""
GREY = "-grey"
"""Of a locator's name: with the background masked out."""
BATCH = 50


@dataclass(frozen=True)
class Scored:
    """Scores of one image set: what they are about, the set's folder, and a row for each picture and metric."""

    record: Record
    images: Path
    rows: pd.DataFrame

    @property
    def setting(self) -> str:
        """What made the pictures, in words."""
        one = self.record
        return f"{one.method} {one.quant} seed {one.seed} step {one.step}"


def scored(paths: Sequence[Path]) -> list[Scored]:
    """The scores in folders of scores, or in folders that hold such.

    Raises:
        UserError: there are none, or they are of several bases.
    """
    folders = [folder for path in paths for folder in _folders(path)]
    found = [_read(folder) for folder in folders]
    if not found:
        raise UserError(f"no scores in {', '.join(map(str, paths))}; quantbooth-evaluate makes some")
    if len(bases := {one.record.base for one in found}) > 1:
        raise UserError(f"scores of one base are compared, got {', '.join(sorted(bases))}; give them apart")
    return found


def _folders(path: Path) -> Iterator[Path]:
    if (path / MANIFEST).is_file() or not path.is_dir():
        yield path
    else:
        places = [
            *path.glob(f"*/{MANIFEST}"),
            *path.glob(f"scores/*/{MANIFEST}"),
            *path.glob(f"*/scores/*/{MANIFEST}"),
        ]
        yield from sorted(place.parent for place in places if _kind(place.parent) == "scores")


def _kind(folder: Path) -> str:
    """The kind of an artifact: the name of the folder that its store keeps it in."""
    return folder.parent.name


def _read(folder: Path) -> Scored:
    open_artifact(folder, "scores")
    record = read_record(folder)
    rows = read_measured(folder)
    return Scored(record, folder.parent.parent / record.images, rows[rows["kind"] != UNRELATED])


def rescored(one: Scored, names: Sequence[str]) -> list[Scored]:
    """The same pictures scored with other locators, by the encoder that the set's own configuration names.

    Raises:
        UserError: when there is no such locator, or it tells no pixels and the background is to be grey.
    """
    cfg = OmegaConf.load(one.images / "config.yaml")
    assert isinstance(cfg, DictConfig)
    subject, encoder = build(cfg.subject.pictures, Subject), build(cfg.scorer.encoder, Encoder)
    requests = [request for request in read_requests(one.images) if request.kind != UNRELATED]
    found = []
    for name in names:
        scorer = Scorer(encoder, _locator(cfg, name.removesuffix(GREY)), mask_background=name.endswith(GREY))
        stage = EvaluationModule(scorer, subject, requests, one.images)
        quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        Trainer(accelerator="cpu", **quiet).test(stage, index_loader(len(requests), BATCH), verbose=False)
        told = scorer.measured_with["local_clip_i"]
        rows = [
            {"file": row["file"], "metric": "local_clip_i", "value": row["local_clip_i"], "measured_with": told}
            for row in stage.rows
        ]
        found.append(Scored(one.record, one.images, pd.DataFrame(rows)))
    return found


def _locator(cfg: DictConfig, name: str) -> Locator:
    file = conf_dir() / "locator" / f"{name}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(other.stem for other in file.parent.glob("*.yaml")))
        raise UserError(f"a locator must be one of {known}, if it tells pixels with {GREY}, got {name!r}")
    OmegaConf.update(cfg, "locator", OmegaConf.load(file), merge=False)
    return build(cfg.locator, Locator)


def wide(found: Sequence[Scored]) -> pd.DataFrame:
    """A row for each picture: subject, method, setting, truths, and a column for each metric and what measured it."""
    pictures: dict[tuple[str, str], dict[str, object]] = {}
    for one in found:
        about = {"subject": one.record.subject, "method": one.record.method, "setting": one.setting}
        for row in one.rows.to_dict("records"):
            picture = pictures.setdefault((str(one.images), row["file"]), dict(about))
            picture[_column(row)] = row["value"]
    return pd.DataFrame(list(pictures.values()))


def _column(row: Mapping[str, object]) -> str:
    metric = str(row["metric"])
    return metric if metric.startswith("oracle_") else f"{metric} | {row['measured_with']}"


def variants_of(found: Sequence[Scored]) -> list[Variant]:
    """Every metric that has a truth, by what it was measured with; in the order of TRUTHS.

    Raises:
        UserError: when the truth is not known, or two oracles told it.
    """
    together = pd.concat([one.rows[["metric", "measured_with"]] for one in found]).drop_duplicates()
    oracles = together[together["metric"].isin(set(TRUTHS.values()))]
    if missing := set(TRUTHS.values()) - set(oracles["metric"]):
        raise UserError(f"the truth must be known, these scores lack {', '.join(sorted(missing))}; take a toy base")
    if oracles["measured_with"].nunique() > 1:
        raise UserError(f"one oracle must tell the truth, got {', '.join(sorted(oracles['measured_with'].unique()))}")
    rows = [row for metric in TRUTHS for row in together[together["metric"] == metric].to_dict("records")]
    return [
        Variant(score_named(row["metric"]).title, row["measured_with"], TRUTHS[row["metric"]], _column(row))
        for row in rows
    ]


def tables(found: Sequence[Scored]) -> dict[str, str]:
    """Files by name: correlations, what local metrics add to plain ones, and the plot."""
    frame, variants = wide(found), variants_of(found)
    made = {"validity.md": validity_table(frame, variants), "scatter.svg": scatter(frame, variants)}
    plain = [variant for variant in variants if variant.metric == score_named("clip_i").title]
    others = [variant for variant in variants if variant.truth == "oracle_subject" and variant not in plain]
    if len(plain) == 1 and others:
        made["differences.md"] = differences_table(frame, plain[0], others)
    settings, subjects = frame["setting"].nunique(), frame["subject"].nunique()
    made["about.md"] = (
        f"{len(frame):,} pictures of {subjects} subjects in {settings} settings; base {found[0].record.base}, "
        f"protocol {', '.join(sorted({one.record.protocol for one in found}))}. Correlations are Spearman's, within "
        "each subject, averaged over subjects; in brackets the 95 % bootstrap interval over subjects"
        f"{', too narrow for so few' if subjects < 20 else ''}"
        f"{'; fewer than six settle no difference' if subjects < FEWEST else ''}.\n"
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; the exit code."""
    parser = ArgumentParser("experiments.metric_validity", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("scores", nargs="+", type=Path, help="folders of scores, or a store")
    parser.add_argument(
        "--locators", nargs="*", default=[], help=f"score again with these; NAME{GREY}: background grey"
    )
    parser.add_argument("--folder", type=Path, default=Path("experiments/metric_validity"))
    options = parser.parse_args(arguments)
    try:
        found = scored(options.scores)
        sets = {one.images: one for one in found}
        again = (
            [other for one in sets.values() for other in rescored(one, options.locators)] if options.locators else []
        )
        made = tables([*found, *again])
    except UserError as error:
        sys.stderr.write(f"metric_validity: {error}\n")
        return 2
    options.folder.mkdir(parents=True, exist_ok=True)
    for name, text in made.items():
        (options.folder / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
