"""The store: artifacts under one root, written atomically, found by their fingerprint or made."""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from quantbooth.runtime.errors import UserError
from quantbooth.runtime.progress import say_found
from quantbooth.store.documents import read_json
from quantbooth.store.drafts import drafts, lock_of, new_draft, remove_abandoned, since
from quantbooth.store.files import SHORT, checksums, fingerprint, storage_of
from quantbooth.store.manifest import FORMAT, KINDS, MANIFEST, TITLES, Manifest, open_artifact
from quantbooth.store.ownership import owning, owning_if_free

__all__ = ["CONFIG", "LONGEST", "Draft", "Artifact", "Store", "make_all", "joined_label", "slugify"]

CONFIG = "config.yaml"
UNFINISHED = "unfinished"
LONGEST = 100
"""Letters of a label."""
TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


@dataclass(frozen=True)
class Draft:
    """An artifact being written to `path`, for `destination`; `contents` and `measured` go into its manifest."""

    path: Path
    destination: Path
    fingerprint: str
    contents: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)

    @property
    def unfinished(self) -> Path:
        """The folder for finished parts of the artifact, from which an interrupted run resumes."""
        return self.destination.parents[1] / UNFINISHED / self.destination.name


@dataclass(frozen=True)
class Store:
    """Artifacts at `<root>/<kind>/<label>-<first 12 digits of the fingerprint>`.

    The identity is everything that decides the content: settings, seed, and the fingerprints of the parents. The label
    is for people: an artifact is found by its fingerprint under any label.
    """

    root: Path

    def find(self, kind: str, identity: Mapping[str, Any], label: str) -> Path | None:
        """Return the finished artifact of this identity, or None.

        Raises:
            UserError: when another artifact has its folder, or another version of quantbooth wrote the store.
        """
        full, path = self.place(kind, identity, label)
        _require_format(self.root)
        others = sorted(path.parent.glob(f"[!.]*-{full[:SHORT]}"))
        for candidate in [path] if path.exists() else others:
            found = open_artifact(candidate, kind).fingerprint
            if found != full:
                raise UserError(f"{candidate} must have the fingerprint {full}, found {found}; move it away")
            return candidate
        return None

    @contextlib.contextmanager
    def writing(
        self,
        kind: str,
        label: str,
        identity: Mapping[str, Any],
        parents: Mapping[str, str],
        config: Mapping[str, Any],
    ) -> Iterator[Draft]:
        """Yield a draft that becomes the artifact when the block ends, and is removed when it raises.

        No other process makes the artifact within the block; one that it already finished is kept.

        Raises:
            UserError: when another artifact has the folder.
        """
        full, destination = self.place(kind, identity, label)
        _require_format(self.root)
        with self.owning(kind, identity, label), storage_of(self.root):
            remove_abandoned(destination.parent)
            draft = Draft(new_draft(destination), destination, full)
            draft.path.mkdir()
            try:
                yield draft
                _write(draft.path / CONFIG, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
                manifest = Manifest(
                    kind,
                    FORMAT,
                    destination.name,
                    full,
                    dict(parents),
                    draft.contents,
                    version("quantbooth"),
                    draft.measured,
                    checksums(draft.path),
                )
                _write(draft.path / MANIFEST, manifest.to_json())
                _publish(draft, kind)
            finally:
                shutil.rmtree(draft.path, ignore_errors=True)

    @contextlib.contextmanager
    def owning(self, kind: str, identity: Mapping[str, Any], label: str) -> Iterator[None]:
        """Be the only process that makes this artifact, under any label, after waiting for another one that does.

        Drafts that an earlier owner left are removed.
        """
        full, destination = self.place(kind, identity, label)
        folder, digits = destination.parent, full[:SHORT]
        with storage_of(self.root):
            folder.mkdir(parents=True, exist_ok=True)
        what = f"{kind.replace('_', ' ')} {destination.name}"
        with owning(lock_of(folder, digits), what, lambda: since(folder, digits)) as first:
            for draft in drafts(folder, digits) if first else []:
                shutil.rmtree(draft, ignore_errors=True)
            yield

    def tidy(self, finished: Path) -> None:
        """Remove what a process left beside an artifact when it was killed just after finishing it."""
        lock, parts = lock_of(finished.parent, finished.name[-SHORT:]), self.root / UNFINISHED / finished.name
        if lock.exists() or parts.exists():
            with contextlib.suppress(OSError), owning_if_free(lock) as free:
                if free:
                    shutil.rmtree(parts, ignore_errors=True)

    def place(self, kind: str, identity: Mapping[str, Any], label: str) -> tuple[str, Path]:
        """Return the fingerprint of an artifact, and its folder.

        Raises:
            UserError: for a label that is no name of a folder.
        """
        if kind not in KINDS:
            raise ValueError(f"the kind of an artifact must be one of {', '.join(KINDS)}, got {kind!r}")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+=,-]*", label) or len(label) > LONGEST:
            raise UserError(
                f"a name must be 1 to {LONGEST} letters, digits and _.+=,- and begin with one of the first two, got "
                f"{label!r}"
            )
        full = fingerprint({"kind": kind, "format_version": FORMAT, "identity": dict(identity)})
        return full, self.root / kind / f"{label}-{full[:SHORT]}"


@cache
def _require_format(root: Path) -> None:
    """Refuse a store of another format; all artifacts of a store have the same, so the first readable one decides."""
    for file in root.glob("*/[!.]*/" + MANIFEST):
        try:
            found = read_json(file).get("format_version")
        except (AttributeError, ValueError, OSError):
            continue  # a damaged manifest is refused when its artifact is opened
        if found != FORMAT:
            raise UserError(
                f"{root} was written by another version of quantbooth (format {found}, this one has {FORMAT}); set "
                "paths.store to a new folder, or remove that one"
            )
        return


def _publish(draft: Draft, kind: str) -> None:
    """Sync all files to disk, then rename, so that a reader sees the complete artifact or none."""
    for path in (*draft.path.rglob("*"), draft.path):
        _sync(path)
    try:
        draft.path.rename(draft.destination)
    except OSError as error:
        if error.errno not in TAKEN:
            raise
        if open_artifact(draft.destination, kind).fingerprint != draft.fingerprint:
            raise UserError(f"{draft.destination} is taken by another {kind}; move it away") from error
    _sync(draft.destination.parent)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Artifact:
    """One artifact of a run, finished or not, defined by its identity."""

    store: Store
    kind: str
    label: str
    verb: str
    identity: dict[str, Any]
    parents: Mapping[str, "Artifact"] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Where it is written; an artifact of the same identity under another label is used as well."""
        return self.store.place(self.kind, self.identity, self.label)[1]

    def find(self) -> Path | None:
        return self.store.find(self.kind, self.identity, self.label)

    def require(self) -> Path:
        """Return the artifact's folder.

        Raises:
            UserError: when it does not exist yet, with the command that makes it.
        """
        found = self.find()
        if found is None:
            raise UserError(
                f"{self.store.root} lacks {TITLES[self.kind]} of these settings; make it with {self.verb} and the same "
                "options"
            )
        return found

    def manifest(self) -> Manifest:
        return open_artifact(self.require(), self.kind)

    def get_or_make(self, make: Callable[[], object]) -> Path:
        """Return the artifact's folder, after making it if needed."""
        return make_all([self], lambda _: make())[0]

    def owning(self) -> AbstractContextManager[None]:
        return self.store.owning(self.kind, self.identity, self.label)

    @property
    def running(self) -> bool:
        """Whether a process that lives is making it."""
        lock = lock_of(self.path.parent, self.path.name[-SHORT:])
        if not lock.exists():
            return False
        with owning_if_free(lock) as free:
            return not free

    def writing(self, config: Mapping[str, Any]) -> AbstractContextManager[Draft]:
        parents = {role: artifact.manifest().fingerprint for role, artifact in self.parents.items()}
        return self.store.writing(self.kind, self.label, self.identity, parents, config)


def make_all(artifacts: Sequence[Artifact], make: Callable[[list[int]], object]) -> list[Path]:
    """Return the folders of several artifacts, after making the missing ones in one call.

    Of several processes one makes them; the others wait for it, and one of them goes on where it ends before.

    Args:
        artifacts: the artifacts, made from the same parents.
        make: makes those with these numbers.
    """
    found = [say_found(artifact.find()) for artifact in artifacts]
    if None in found:
        with ExitStack() as owned:
            for artifact in sorted(artifacts, key=lambda one: one.path):  # one order, so that none waits in a circle
                if artifact.find() is None:
                    owned.enter_context(artifact.owning())
            found = [say_found(artifact.find()) for artifact in artifacts]
            if missing := [number for number, path in enumerate(found) if path is None]:
                make(missing)
    else:
        for artifact, path in zip(artifacts, found, strict=True):
            if path is not None:
                artifact.store.tidy(path)
    return [artifact.require() for artifact in artifacts]


def joined_label(names: Sequence[str]) -> str:
    """Return the first of several names, and the number of the others."""
    return names[0] if len(names) == 1 else f"{names[0]}-and-{len(names) - 1}-more"


def slugify(name: str) -> str:
    """Return a name reduced to characters that are valid in a folder's name on every system."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-_.")[:40] or "subject"
