"""A hub that does not answer is asked once, and models come from its cache alone."""

from typing import Any

import pytest
from huggingface_hub import constants

from quantbooth.diffusion import hub, sources
from quantbooth.diffusion.hub import from_cache_if_silent
from quantbooth.diffusion.sources import network_folder
from quantbooth.evaluation.encoders import OpenClipEncoder
from quantbooth.runtime.errors import UserError


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requests to a hub that does not answer."""
    made: list[str] = []

    class Session:
        def head(self, address: str, **_: Any) -> None:
            made.append(address)
            raise ConnectionError("nobody is there")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
    monkeypatch.setattr(hub, "get_session", Session)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: pytest.fail("a request is repeated"))
    return made


def test_a_silent_hub_is_left_alone_while_a_model_is_looked_for(asked: list[str]) -> None:
    with from_cache_if_silent() as reason:
        assert constants.HF_HUB_OFFLINE
    assert reason is not None and "nobody is there" in reason and len(asked) == 1
    assert not constants.HF_HUB_OFFLINE


def test_a_hub_that_answers_is_used(monkeypatch: pytest.MonkeyPatch, asked: list[str]) -> None:
    monkeypatch.setattr(hub, "get_session", lambda: type("Session", (), {"head": lambda *_, **__: asked.append("")}))
    with from_cache_if_silent() as reason:
        assert (reason, constants.HF_HUB_OFFLINE, len(asked)) == (None, False, 1)


@pytest.mark.parametrize(
    ("model", "weights"), [("ViT-B-32-quickgelu", "openai"), ("ViT-B-16-SigLIP", "webli"), ("hf-hub:a/b", None)]
)
def test_a_clip_that_is_not_there_is_said_at_once(asked: list[str], model: str, weights: str | None) -> None:
    with pytest.raises(UserError) as caught:
        OpenClipEncoder(model, weights)
    assert model in str(caught.value) and "nobody is there" in str(caught.value) and len(asked) == 1


def test_another_network_that_is_not_there_is_said_at_once(asked: list[str]) -> None:
    with pytest.raises(UserError, match=r"owner/name.*nobody is there.*dino\.folder\.path=DIR"):
        network_folder("owner/name", "0" * 40, "dino.folder")
    assert len(asked) == 1


def test_what_is_in_the_cache_needs_no_hub(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "snapshot_download", lambda *_, **__: f"cache, offline: {constants.HF_HUB_OFFLINE}")
    assert str(network_folder("owner/name", "0" * 40, "dino.folder")) == "cache, offline: True"
