"""The schema: every option is declared; code paths and neutral values are left out; undeclared options decide."""

import yaml

from quantbooth.runtime.config import conf_dir
from quantbooth.schema import FIELDS, content, trainer_content

TRAINER = {"accelerator": "cpu", "devices": 1, "precision": "32-true", "max_epochs": -1}


def test_addresses_of_code_never_decide() -> None:
    settings = {"tuner": {"learner": {"_target_": "here.Tuner", "inputs": True, "parts": [{"_target_": "b", "c": 1}]}}}
    assert content(settings, "tuner") == {"learner": {"inputs": True, "parts": [{"c": 1}]}}


def test_a_renamed_option_keeps_its_key_in_identities() -> None:
    settings = {"calibration": {"search": {"_target_": "here.MSEObserver", "lp_norm": 2.4, "points": 80}}}
    assert content(settings, "calibration") == {"search": {"norm": 2.4, "points": 80}}


def test_what_is_not_declared_decides() -> None:
    assert content({"sampler": {"eta": 0.5}}, "sampler") == {"eta": 0.5}


def test_neutral_values_stay_out_and_others_do_not() -> None:
    for flip, found in ((False, {}), (True, {"random_flip": True}), (0, {"random_flip": 0})):
        assert content({"tuner": {"random_flip": flip}}, "tuner") == found


def test_the_trainer_decides_by_what_it_computes() -> None:
    for added, computed, learned in (
        ({}, {}, {}),
        ({"devices": 4, "log_every_n_steps": 1}, {}, {}),
        ({"precision": "bf16-mixed"}, {"precision": "bf16-mixed"}, {"precision": "bf16-mixed"}),
        ({"gradient_clip_val": 1.0}, {}, {"gradient_clip_val": 1.0}),
        ({"limit_predict_batches": 2}, {"limit_predict_batches": 2}, {"limit_predict_batches": 2}),
    ):
        settings = {"trainer": TRAINER | added}
        assert trainer_content(settings) == ({"trainer": computed} if computed else {})
        assert trainer_content(settings, training=True) == ({"trainer": learned} if learned else {})


def test_every_option_of_a_group_is_declared() -> None:
    for group, fields in FIELDS.items():
        top, _, inner = group.partition(".")
        folder = conf_dir() / top
        single = folder.with_suffix(".yaml")
        single = single if single.is_file() else conf_dir() / "quantbooth.yaml"
        files = sorted(folder.glob("*.yaml")) if folder.is_dir() else [single]
        for file in files:
            node = yaml.safe_load(file.read_text())
            node = node.get(inner if inner else top, {} if inner else node)
            undeclared = {key for key in node if not key.startswith("_")} - {*fields, "defaults", "hydra"}
            assert undeclared == set(), file
