"""Documents of artifacts: a schema, or one line with file and key."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from quantbooth.runtime.errors import UserError
from quantbooth.store.documents import checked, parsed_json, read_options, read_tensors
from quantbooth.store.files import require_name


@dataclass(frozen=True)
class Step:
    step: int


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1, "a": 2}', "the key 'a' twice"),
        ("[NaN]", "NaN"),
        ("[1e999]", "1e999"),
        ("[" * 100_000, "more than 32 levels"),
        ('{"a":' * 40 + "1" + "}" * 40, "more than 32 levels"),
        (r'"\ud800"', "surrogates"),
        ("1" * 5000, "digits"),
        ("{", "line 1"),
    ],
)
def test_json_that_readers_understand_differently_is_refused(text: str, found: str) -> None:
    with pytest.raises(UserError, match=f"^record.json must be JSON, found: .*{found}"):
        parsed_json(text, "record.json")


@pytest.mark.parametrize(
    ("values", "key"),
    [({}, "step"), ({"step": True}, "step"), ({"step": "1"}, "step"), ({"step": 1, "x": 2}, "x"), ([], "document")],
)
def test_values_are_of_their_schema(values: object, key: str) -> None:
    assert checked(Step, {"step": 1}, "record.json") == Step(1)
    with pytest.raises(UserError, match=rf"^record\.json: .*{key}"):
        checked(Step, values, "record.json")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a: ${oc.env:HOME}", "the reference"),
        ("a: [1, {b: '${oc.decode:x}'}]", "the reference"),
        ("a: &x [1]\nb: [*x, *x]", "an alias"),
        ("a: 1\na: 2", "twice"),
        ("- 1", "\\[1\\]"),
        ("a: !!python/object/apply:os.system [ls]", "python/object"),
        ("[" * 5000, "32 levels"),
    ],
)
def test_options_that_came_with_an_artifact_are_resolved_already(tmp_path: Path, text: str, found: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"config\.yaml must be the options of an artifact, found.*{found}"):
        read_options(tmp_path / "config.yaml")


@pytest.mark.parametrize("head", [b"\xff" * 8, (2**40).to_bytes(8, "little"), b"\x02\0\0\0\0\0\0\0{]", b""])
def test_tensors_with_an_absurd_header_are_one_line(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(head)
    with pytest.raises(UserError, match=r"^.*x\.safetensors cannot be read: .*; make it again$"):
        read_tensors(tmp_path / "x.safetensors")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a\\b", "C:x", "..", ".", "", "a\0b", "a\nb", "a/b"])
def test_a_name_stays_in_its_folder(name: str) -> None:
    with pytest.raises(UserError, match="list: file must be the name of a file in its folder"):
        require_name(name, "list: file")
