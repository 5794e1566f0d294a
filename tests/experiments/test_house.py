"""The figures of the house: files, lines, imports between rooms, each once, and cycles."""

from pathlib import Path

from experiments.house import house

FILES = {
    "quantbooth/__init__.py": '"""All."""\n',
    "quantbooth/cli.py": "from quantbooth.data import photos\nfrom quantbooth.data.photos import read\n",
    "quantbooth/data/__init__.py": "",
    "quantbooth/data/photos.py": "import json\nfrom quantbooth.data.prompts import words\n\nprint(json, words)\n",
    "quantbooth/data/prompts.py": "from quantbooth.cli import main\nimport quantbooth.store.files\n",
    "quantbooth/store/files.py": "",
    "quantbooth_toyworld/world.py": "import quantbooth.cli\nfrom quantbooth_toyworld.card import text\n",
    "quantbooth_toyworld/card.py": "",
}


def test_imports_are_counted_between_rooms_and_cycles_are_found(tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    own, toy = house(tmp_path, "quantbooth"), house(tmp_path, "quantbooth_toyworld")
    assert own.lines == dict(zip(sorted(FILES)[:6], (1, 2, 0, 4, 2, 0), strict=True))
    assert own.edges == {("cli", "data"), ("data", "cli"), ("data", "store")}
    assert own.cycles == [["cli", "data"]]
    assert own.foreign == set()
    assert toy.edges == {("world", "card")}
    assert toy.cycles == []
    assert toy.foreign == {"quantbooth"}


def test_this_house_has_no_cycle_and_few_imports_between_rooms() -> None:
    own = house(Path(__file__).parents[2] / "src", "quantbooth")
    assert own.cycles == []
    assert own.foreign == set()
    assert len(own.edges) <= 110
    assert max(own.lines.values()) <= 300
