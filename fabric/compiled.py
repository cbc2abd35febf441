"""``@kernel``: how every compiled function of the project is made, and where its machine code is cached.

Numba's own cache stamps miss an edit in another file, so each kernel module has a cache folder of its own, named
by a hash over its source, those of all kernel modules that it imports, and the versions: a changed source is
another folder for it and for those that build on it, and for nobody else. Numba also files machine code by the path of
its source; `Locator` does not, so a cache may be copied to another clone or shared by several. A folder that cannot be
written must not keep a node from starting; then kernels compile in memory, and `CACHED` says so.

It imports numba only when the first function is compiled, so that who merely asks about the cache is not half a
second late.
"""

import functools
import hashlib
import os
import platform
import re
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("fabric/native.py", "fabric/compiled.py", "fabric/records.py")
"""What every kernel may build on."""
FOLDERS = ("fabric", "nodes", "gateway")

_LOCATORS = "fabric.compiled.Locator, UserProvidedCacheLocator, InTreeCacheLocator, UserWideCacheLocator"

_IMPORT = re.compile(r"^from ([\w.]+) import (\([^)]*\)|.*)", re.MULTILINE)
"""All imports of a kernel stand at the left margin; taking its source apart as Python does costs half a second."""
_WORD = re.compile(r"\w+")

_F = TypeVar("_F", bound=Callable[..., Any])


def fingerprint() -> str:
    """Name this machine's kernels: 16 hex digits over their sources, the versions and the processor."""
    kernels = sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*_kernel.py"))
    return _digest(kernels)


@functools.cache
def module_folder(module: str) -> Path | None:
    """The cache folder of the kernels of ``module``; None where nothing can be cached."""
    if CACHE_FOLDER is None:
        return None
    return CACHE_FOLDER.parent / f"{module}-{_digest(sorted(_closure(module)))}"


@functools.cache
def _closure(module: str) -> frozenset[Path]:
    """The source of a kernel module and of every kernel module that it imports, at any depth."""
    path = _source(module)
    found = {path}
    for package, names in _IMPORT.findall(path.read_text()):
        for name in (package, *(f"{package}.{word}" for word in _WORD.findall(names))):
            if name.endswith("_kernel") and name.split(".")[0] in FOLDERS and _source(name).exists():
                found |= _closure(name)
    return frozenset(found)


def _source(module: str) -> Path:
    return ROOT.joinpath(*module.split(".")).with_suffix(".py")


def _digest(sources: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in [*(ROOT / name for name in SOURCES), *sources]:
        digest.update(path.read_bytes())
    for part in (version("numba"), version("numpy"), version("pyzmq"), sys.version, platform.machine()):
        digest.update(part.encode())
    digest.update(os.environ.get("NUMBA_BOUNDSCHECK", "0").encode())
    return digest.hexdigest()[:16]


def _cache_folder() -> Path | None:
    """The folder that stands for this state of all kernels, made and proven writable; None where there is none."""
    chosen = os.environ.get("FABRIC_KERNEL_CACHE")
    base = Path(chosen) if chosen else ROOT / ".fabric" / "kernels"
    if not chosen and not (ROOT / "pyproject.toml").exists():  # installed as a package, not run from a clone
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fabric" / "kernels"
    folder = base / fingerprint()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError:
        return None
    return folder


CACHE_FOLDER = _cache_folder()
CACHED = CACHE_FOLDER is not None


class Locator:
    """Where numba keeps the machine code of kernel modules (its environment variable NUMBA_CACHE_LOCATOR_CLASSES)."""

    def __init__(self, folder: Path, line: int) -> None:
        self._folder = folder
        self._line = line

    @classmethod
    def from_function(cls, function: Callable[..., Any], _: str) -> "Locator | None":
        """Answer for the functions of kernel modules; None leaves others to numba's own locators."""
        module = function.__module__
        folder = module_folder(module) if module.endswith("_kernel") and module.split(".")[0] in FOLDERS else None
        return None if folder is None else cls(folder, function.__code__.co_firstlineno)

    def ensure_cache_path(self) -> None:
        """Make the folder; raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)

    def get_cache_path(self) -> str:
        """Return the folder, whose name stands for the source and all that it builds on."""
        return str(self._folder)

    def get_source_stamp(self) -> str:
        """Return a constant: another source has another folder."""
        return ""

    def get_disambiguator(self) -> str:
        """Tell functions of one name apart."""
        return str(self._line)


def _compile(function: _F, **options: Any) -> _F:
    import numba

    numba.config.CACHE_LOCATOR_CLASSES = _LOCATORS  # read when the function is made
    compiled: _F = numba.njit(cache=CACHED, **options)(function)
    return compiled


def kernel(function: _F) -> _F:
    """Compile ``function`` at its first call; keep the GIL, so that no other thread sees its arrays half written."""
    return _compile(function)


def waiting_kernel(function: _F) -> _F:
    """Compile ``function`` to run without the GIL: for calls that wait on a socket and touch no shared array."""
    return _compile(function, nogil=True)


def inlined(function: _F) -> _F:
    """Compile ``function`` as a helper that callers absorb."""
    return _compile(function, inline="never", nogil=True)


def lean_kernel(function: _F) -> _F:
    """As `kernel`, for one that only reads and writes the arrays it is given: compiled without reference counts.

    A table passed to a helper otherwise counts each of its arrays up and down, which costs more than the
    work on a row. Its helpers must be `lean` too.
    """
    return _compile(function, _nrt=False)


def lean(function: _F) -> _F:
    """As `inlined`, for helpers of a `lean_kernel`: always part of the machine code of their callers."""
    return _compile(function, forceinline=True, _nrt=False)
