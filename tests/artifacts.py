"""Artifacts that tests change on purpose, with checksums that are right again."""

import json
from pathlib import Path
from typing import Any

from quantbooth.store.files import checksums
from quantbooth.store.manifest import MANIFEST, SEAL, Manifest


def seal(folder: Path, **changes: Any) -> None:
    """Change keys of a manifest, and give it the checksums of the files as they are now."""
    values = json.loads((folder / MANIFEST).read_text())
    del values[SEAL]
    files = {name: value for name, value in checksums(folder).items() if name != MANIFEST}
    (folder / MANIFEST).write_text(Manifest(**values | changes | {"files": files}).to_json())
