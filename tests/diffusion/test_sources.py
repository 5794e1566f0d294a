"""Sources of a base: folders, the hub by commit; everything else is refused in one line."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from quantbooth.diffusion import sources
from quantbooth.diffusion.sources import network_folder, source_folder
from quantbooth.runtime.errors import UserError

COMMIT = "0123456789" * 4


def test_a_folder_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert source_folder(str(tmp_path)) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert source_folder(f"~/{tmp_path.name}") == tmp_path
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert source_folder("owner/name") == Path("owner/name")


def test_the_hub_is_asked_for_data_of_one_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, Any] = {}

    def download(name: str, **options: Any) -> str:
        asked.update(name=name, **options)
        return str(tmp_path)

    monkeypatch.setattr(sources, "snapshot_download", download)
    assert source_folder("owner/name", COMMIT) == tmp_path
    assert (asked["name"], asked["revision"]) == ("owner/name", COMMIT)
    assert "unet/*.safetensors" in asked["allow_patterns"]
    assert not [pattern for pattern in asked["allow_patterns"] if "bin" in pattern or "py" in pattern]
    assert {"*.bin", "*.py"} <= set(asked["ignore_patterns"])


@pytest.mark.parametrize("revision", [None, "main", "0123", COMMIT.upper().replace("0", "G")])
def test_a_model_of_the_hub_must_be_pinned(revision: str | None) -> None:
    with pytest.raises(UserError, match=r"^there is no folder owner/name; from the hub it needs base\.revision=COMMIT"):
        source_folder("owner/name", revision)


def test_without_a_network_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("Cannot find it in the cache.\nMore lines.")

    monkeypatch.setattr(sources, "snapshot_download", offline)
    monkeypatch.setattr(sources, "from_cache_if_silent", nullcontext)
    with pytest.raises(UserError) as caught:
        source_folder("owner/name", COMMIT)
    assert str(caught.value) == (
        "cannot fetch owner/name from the hub: Cannot find it in the cache; base.path=DIR takes a folder that is there "
        "already"
    )


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("model.ckpt", r"model\.ckpt is a pickle, which may run code when it is read; save it as a diffusers folder"),
        ("model.BIN", r"model\.BIN is a pickle"),
        (
            "model.safetensors",
            r"model\.safetensors is a file of another kind; a base is a diffusers folder or a \.safetensors file",
        ),
    ],
)
def test_files_are_refused(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04")
    with pytest.raises(UserError, match=told):
        source_folder(str(tmp_path / name))


@pytest.mark.parametrize("path", ["./nothing", "models/a/b", "/no/where", "~/no"])
def test_a_folder_that_is_not_there_is_told(path: str) -> None:
    with pytest.raises(UserError, match=r"^base\.path must be a folder in diffusers format or owner/name on the hub"):
        source_folder(path)


def test_a_network_of_transformers_is_found_alike_and_told_by_its_own_option(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {}

    def download(name: str, **options: Any) -> str:
        asked.update(name=name, **options)
        return str(tmp_path)

    monkeypatch.setattr(sources, "snapshot_download", download)
    assert network_folder(str(tmp_path), None, "dino.folder") == tmp_path
    assert network_folder("owner/name", COMMIT, "dino.folder") == tmp_path
    assert asked["allow_patterns"] == ["*.json", "*.txt", "*.safetensors"]
    with pytest.raises(
        UserError, match=r"^there is no folder owner/name; from the hub it needs dino\.folder\.revision="
    ):
        network_folder("owner/name", None, "dino.folder")
    with pytest.raises(
        UserError, match=r"^locator\.folder\.path must be a folder in transformers format or owner/name"
    ):
        network_folder("./nothing", None, "locator.folder")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"must be a transformers folder, .* is a file; save_pretrained makes a folder"):
        network_folder(str(tmp_path / "model.safetensors"), None, "dino.folder")
