"""What the files of a collection are called."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_PREFIX = "bgem3-"


def identity_of(path: str | Path) -> tuple[int, int] | None:
    """Return what tells a file from every other one, whatever it is called; None: there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


@dataclass(frozen=True, slots=True)
class CollectionFiles:
    """The files that a collection has beside Chroma's.

    Attributes:
        folder: Where they are.
        name: The collection's.
    """

    folder: Path
    name: str

    @classmethod
    def of(cls, sidecar: Path) -> CollectionFiles:
        """Return the files of the collection that a sidecar, or one that is made, belongs to."""
        return cls(sidecar.parent, sidecar.name.removeprefix(_PREFIX).removesuffix(".new").removesuffix(".sqlite3"))

    @classmethod
    def names(cls, folder: Path) -> list[str]:
        """Return the names of the collections of a folder, sorted."""
        return sorted(cls.of(path).name for path in folder.glob(f"{_PREFIX}*.sqlite3"))

    @staticmethod
    def is_ours(name: str) -> bool:
        """Whether a file or folder of that name belongs to a collection's files and not to Chroma's."""
        return name.startswith(_PREFIX)

    @property
    def sidecar(self) -> Path:
        """What Chroma cannot keep."""
        return self._path("sqlite3")

    @property
    def damaged(self) -> Path:
        """A sidecar that `bgem3 repair` put aside."""
        return self._path("sqlite3.damaged")

    @property
    def fresh(self) -> Path:
        """A sidecar that `bgem3 repair` makes, until it is whole."""
        return self._path("sqlite3.new")

    @property
    def databases(self) -> list[Path]:
        """All three, each after what SQLite may keep beside it; the sidecar itself, which names the collection, last."""
        paths = (self.damaged, self.fresh, self.sidecar)
        return [Path(f"{path}{ending}") for path in paths for ending in ("-wal", "-shm", "")]

    @property
    def lexical(self) -> Path:
        """Folder of the lexical index."""
        return self._path("lexical")

    @property
    def lock(self) -> Path:
        """Held by the process that writes."""
        return self._path("lock")

    @property
    def graph_lock(self) -> Path:
        """Held while Chroma's graph changes or is loaded."""
        return self._path("graph.lock")

    def _path(self, ending: str) -> Path:
        return self.folder / f"{_PREFIX}{self.name}.{ending}"
