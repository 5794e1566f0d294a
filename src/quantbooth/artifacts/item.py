"""An item of a plan: an artifact that is there or can be made, known by what decides it."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantbooth.artifacts.manifest import Manifest, open_artifact
from quantbooth.artifacts.store import Draft, Store
from quantbooth.errors import UserError

__all__ = ["Item", "all_made", "named", "word"]


@dataclass(frozen=True)
class Item:
    """One artifact of the plan, finished or not."""

    store: Store
    kind: str
    label: str
    verb: str
    identity: dict[str, Any]
    parents: Mapping[str, "Item"] = field(default_factory=dict)

    def find(self) -> Path | None:
        return self.store.find(self.kind, self.identity, self.label)

    def require(self) -> Path:
        """Its folder.

        Raises:
            UserError: when it is not there yet, saying which command makes it.
        """
        found = self.find()
        if found is None:
            raise UserError(
                f"no {self.kind} for these settings in {self.store.root}; make it with {self.verb} and the same options"
            )
        return found

    def manifest(self) -> Manifest:
        return open_artifact(self.require(), self.kind)

    def made_by(self, make: Callable[[], object]) -> Path:
        """Its folder, made where it is not there yet."""
        return all_made([self], make)[0]

    def writing(self, config: Mapping[str, Any]) -> AbstractContextManager[Draft]:
        parents = {role: item.manifest().fingerprint for role, item in self.parents.items()}
        return self.store.writing(self.kind, self.label, self.identity, parents, config)


def all_made(items: Sequence[Item], make: Callable[[], object]) -> list[Path]:
    """The folders of several, made together where one is not there yet.

    Parts that are kept while they are unfinished belong to every process that makes them: the one that ends first
    clears them away, and the others take what it made.
    """
    if all(item.find() for item in items):
        return [item.require() for item in items]
    try:
        make()
    except FileNotFoundError:
        if not all(item.find() for item in items):
            raise
    return [item.require() for item in items]


def named(names: Sequence[str]) -> str:
    """Return the first of several names, and how many more there are."""
    return names[0] if len(names) == 1 else f"{names[0]}-and-{len(names) - 1}-more"


def word(name: str) -> str:
    """The part of a name that may stand in a folder's name everywhere."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-_.")[:40] or "subject"
