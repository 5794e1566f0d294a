"""The plan of the house in figures: files, lines, imports between rooms, cycles, the longest file.

    python -m experiments.house
    python -m experiments.house --edges

A room is a package directly below `quantbooth`, or a module that lies there. An import between rooms counts once for
each pair of rooms, whatever is imported.
"""

import argparse
import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["House", "house", "main"]

ROOT = Path(__file__).parents[1] / "src"


@dataclass(frozen=True)
class House:
    """What one package looks like.

    Attributes:
        lines: of each file.
        edges: (room, room it imports), each once.
        foreign: first-party packages beside this one that it imports.
    """

    lines: dict[str, int]
    edges: frozenset[tuple[str, str]]
    foreign: frozenset[str]

    @property
    def cycles(self) -> list[list[str]]:
        """Groups of rooms that import each other, directly or through others."""
        reached = {room: self._reached(room) for room in {room for edge in self.edges for room in edge}}
        groups = {frozenset(o for o in reached if room in reached[o] and o in reached[room]) for room in reached}
        return sorted(sorted(group) for group in groups if group)

    def _reached(self, room: str) -> set[str]:
        found: set[str] = set()
        todo = [room]
        while todo:
            here = todo.pop()
            for start, end in self.edges:
                if start == here and end not in found:
                    found.add(end)
                    todo.append(end)
        return found


def house(root: Path, package: str) -> House:
    """Return the figures of one package below `root`."""
    lines, edges, foreign = {}, set(), set()
    beside = {path.name for path in root.iterdir() if path.is_dir()} - {package}
    for file in sorted((root / package).rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        lines[file.relative_to(root).as_posix()] = len(text.splitlines())
        own = _room(file.relative_to(root / package))
        for module in _imported(ast.parse(text)):
            first, *rest = module.split(".")
            if first in beside:
                foreign.add(first)
            if first == package and rest and own and rest[0] != own:
                edges.add((own, rest[0]))
    return House(lines, frozenset(edges), frozenset(foreign))


def _room(file: Path) -> str:
    """Return the room of a file; the package's own __init__ is in none."""
    return file.parts[0] if len(file.parts) > 1 else file.stem.replace("__init__", "")


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def main() -> None:
    """Print the figures of every package in src/."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edges", action="store_true", help="print every import between rooms")
    parser.add_argument("--root", type=Path, default=ROOT)
    given = parser.parse_args()
    for package in sorted(path.name for path in given.root.iterdir() if (path / "__init__.py").is_file()):
        found = house(given.root, package)
        longest = max(found.lines, key=found.lines.__getitem__)
        outgoing = defaultdict(list)
        for start, end in sorted(found.edges):
            outgoing[start].append(end)
        print(  # noqa: T201
            f"{package}: {len(found.lines)} files, {sum(found.lines.values())} lines; "
            f"{len(found.edges)} imports between rooms, cycles: {found.cycles or 'none'}; "
            f"longest file: {longest} ({found.lines[longest]} lines); "
            f"imports beside it: {', '.join(sorted(found.foreign)) or 'none'}"
        )
        if given.edges:
            for room, others in outgoing.items():
                print(f"    {room}: {', '.join(others)}")  # noqa: T201


if __name__ == "__main__":
    main()
