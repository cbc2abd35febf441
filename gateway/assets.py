"""The files of the web page, read once and kept in memory, each as it is and packed, for a page is a few hundred kB."""

import gzip
import hashlib
import mimetypes
import re
from dataclasses import dataclass
from pathlib import Path

YEAR_S = 365 * 86_400
_TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}
_VERSIONED = re.compile(r".*-[0-9]+\.[0-9]+\.[0-9]+\.[a-z]+")


@dataclass(frozen=True)
class Asset:
    """One file."""

    type: str
    plain: bytes
    packed: bytes  # gzip
    tag: str  # its ETag
    versioned: bool  # its version is in its name, so what the name stands for never changes


class Page:
    """The files under a folder, by their path in it."""

    def __init__(self, folder: Path) -> None:
        self._assets = {
            path.relative_to(folder).as_posix(): _read(path) for path in folder.rglob("*") if path.is_file()
        }

    def find(self, name: str) -> Asset | None:
        """The file of that path; None where there is none."""
        return self._assets.get(name)

    def packed_bytes(self) -> int:
        """What all of them take on the wire."""
        return sum(len(asset.packed) for asset in self._assets.values())


def _read(path: Path) -> Asset:
    plain = path.read_bytes()
    kind = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "text/plain"
    return Asset(
        kind,
        plain,
        gzip.compress(plain, 9, mtime=0),
        f'"{hashlib.blake2b(plain, digest_size=12).hexdigest()}"',
        _VERSIONED.fullmatch(path.name) is not None,
    )
