"""The store's place from the environment: used where paths.store is not given, and said."""

import hydra
import pytest

from quantbooth.runtime.config import conf_dir
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.options import require_valid
from quantbooth.runtime.places import say_store


@pytest.mark.parametrize(
    ("words", "store", "told"),
    [
        ([], "/shared/store", "the store is /shared/store, from QUANTBOOTH_STORE\n"),
        (["paths.outputs=o"], "/shared/store", "the store is /shared/store, from QUANTBOOTH_STORE\n"),
        (["paths.store=mine"], "mine", ""),
    ],
)
def test_the_variable_is_used_and_said_unless_a_place_is_given(
    words: list[str], store: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QUANTBOOTH_STORE", "/shared/store")
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = hydra.compose("quantbooth", words)
    assert cfg.paths.store == store
    say_store(cfg)
    assert capsys.readouterr().err == told


def test_an_empty_variable_is_refused_by_name_unless_a_place_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTBOOTH_STORE", "")
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        empty, given = hydra.compose("quantbooth"), hydra.compose("quantbooth", ["paths.store=mine"])
    with pytest.raises(UserError, match=r"^the environment variable QUANTBOOTH_STORE is empty; unset QUANTBOOTH_STORE"):
        require_valid(empty)
    require_valid(given)


def test_without_the_variable_it_is_beside_the_outputs(capsys: pytest.CaptureFixture[str]) -> None:
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = hydra.compose("quantbooth", ["paths.outputs=o"])
    say_store(cfg)
    assert (cfg.paths.store, capsys.readouterr().err) == ("o/store", "")
