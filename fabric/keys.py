"""API keys: a file that holds their hashes, and the few things that are done with it; CURVE key pairs for nodes.

A key is a name and a secret of 256 random bits, shown once. The file keeps the secret's SHA-256, which is enough:
a slow hash protects what people choose, and nobody can search 2^256. It has mode 0600, is replaced as a whole, and
is refused when others may read it. A revoked key stays in it, so that `list` tells when and its name is never
used again; who reads the file (a gateway) looks whether it has changed.
"""

import base64
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fabric.clock import SECOND_NS
from fabric.errors import FabricError, UsageError
from fabric.topology import Curve, curve_secret

VERSION = 1
SECRET_BYTES = 32
BYTES_MAX = 64 << 20
_ID = re.compile(r"FK[A-Z2-7]{18}")
_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
_NO_HASH = "sha256:" + "0" * 64
"""Compared with when there is no such key: an unknown name takes as long as a wrong secret."""


@dataclass(frozen=True)
class Key:
    """One line of the file. Times are seconds since the epoch."""

    id: str
    user: str  # whose limits it counts for; several keys may be one user's
    plan: str
    hash: str  # sha256:<hex> of the secret
    created: int
    expires: int | None = None
    revoked: int | None = None

    def good(self, now_ns: int) -> bool:
        """Whether it may be used."""
        return self.revoked is None and (self.expires is None or now_ns < self.expires * SECOND_NS)


@dataclass(frozen=True)
class Keys:
    """What a file held when it was read."""

    by_id: dict[str, Key]

    def find(self, key_id: str, secret: str, now_ns: int) -> Key | None:
        """The good key of this name and secret, in the same time whether or not there is such a name."""
        key = self.by_id.get(key_id)
        same = hmac.compare_digest(digest(secret), key.hash if key else _NO_HASH)
        return key if key is not None and same and key.good(now_ns) else None

    def good(self, key_id: str, now_ns: int) -> bool:
        """Whether a key that came in earlier still may."""
        key = self.by_id.get(key_id)
        return key is not None and key.good(now_ns)


def digest(secret: str) -> str:
    """What the file keeps of a secret."""
    return "sha256:" + hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def make(user: str, plan: str, now_ns: int, expires: int | None = None) -> tuple[Key, str]:
    """A new key and its secret, which is kept nowhere. Raises UsageError for a name that is none."""
    if not _USER.fullmatch(user):
        raise UsageError(f"user {user!r}: expected 1 to 64 letters, digits and . _ @ + -")
    key_id = "FK" + base64.b32encode(secrets.token_bytes(12)).decode()[:18]
    secret = secrets.token_urlsafe(SECRET_BYTES)
    return Key(key_id, user, plan, digest(secret), now_ns // SECOND_NS, expires), secret


def read(path: Path) -> Keys:
    """The keys in a file; none where there is no file. Raises FabricError that says what is wrong with it."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise FabricError(f"{path} has mode {mode:04o}: others may read the keys; chmod 600 it")
            text = file.read(BYTES_MAX + 1)
    except FileNotFoundError:
        return Keys({})
    except OSError as error:
        raise FabricError(f"{path}: {error.strerror or error}") from error
    if len(text) > BYTES_MAX:
        raise FabricError(f"{path}: larger than {BYTES_MAX} bytes")
    try:
        found = json.loads(text)
        version = found["version"]
        keys = [_key(entry) for entry in found["keys"]] if version == VERSION else []
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FabricError(f"{path}: not a file of keys: {type(error).__name__} {error}"[:300]) from error
    if version != VERSION:
        raise FabricError(f"{path}: this build knows version {VERSION} of the file, found {version!r}")
    return Keys({key.id: key for key in keys})


def _key(entry: dict[str, Any]) -> Key:
    key = Key(**entry)
    texts = (key.id, key.user, key.plan, key.hash)
    times = (key.created, *(time for time in (key.expires, key.revoked) if time is not None))
    if not all(isinstance(text, str) for text in texts) or not all(type(time) is int for time in times):
        raise TypeError(f"key {str(entry.get('id'))[:32]!r} has a value of the wrong type")
    if not _ID.fullmatch(key.id) or not re.fullmatch(r"sha256:[0-9a-f]{64}", key.hash):
        raise ValueError(f"key {key.id[:32]!r} is not one of ours")
    return key


def add(path: Path, key: Key) -> None:
    """Put a key into the file, which is made if there is none. Raises FabricError."""
    with _changing(path) as keys:
        keys[key.id] = key


def revoke(path: Path, key_id: str, now_ns: int) -> Key:
    """Mark a key as revoked. Raises UsageError when there is no such key, or it is revoked already."""
    with _changing(path) as keys:
        if key_id not in keys:
            raise UsageError(f"{path} has no key {key_id!r}; `fabric keys list` shows those that there are")
        if keys[key_id].revoked is not None:
            raise UsageError(f"key {key_id} is revoked already")
        keys[key_id] = replace(keys[key_id], revoked=now_ns // SECOND_NS)
        return keys[key_id]


@contextmanager
def _changing(path: Path) -> Iterator[dict[str, Key]]:
    """The keys of a file to change; written back as a whole, one command at a time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        guard = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise FabricError(f"{path}: {error.strerror or error}") from error
    try:
        fcntl.flock(guard, fcntl.LOCK_EX)
        keys = dict(read(path).by_id)
        yield keys
        text = json.dumps({"version": VERSION, "keys": [asdict(key) for key in keys.values()]}, indent=1)
        _write_private(path, text + "\n")
    finally:
        os.close(guard)


def _write_private(path: Path, text: str) -> None:
    """Replace a file as a whole; mode 0600 from its first byte on."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise FabricError(f"{path}: {error.strerror or error}") from error


def make_curve(path: Path) -> str:
    """Write the secret half of a new CURVE key pair to ``path``, mode 0600; return the public half.

    Raises FabricError when there is a file: a node's key is not replaced by accident.
    """
    from zmq import curve_keypair

    if path.exists():
        raise FabricError(f"{path}: there is a file already")
    public, secret = curve_keypair()
    _write_private(path, secret.decode() + "\n")
    return public.decode()


def read_curve(curve: Curve) -> tuple[bytes, bytes]:
    """The public and the secret half of a host's key pair, Z85. Raises FabricError, which names no key."""
    from zmq import curve_public

    path = Path(curve.secret_file)
    try:
        secret = curve_secret(path.read_text("ascii", "replace"))
    except OSError as error:
        raise FabricError(f"{path}: {error.strerror or error}") from error
    if secret is None:
        raise FabricError(f"{path} holds no CURVE secret key")
    if curve_public(secret.encode()) != curve.public_key.encode():
        raise FabricError(f"{path} holds the secret half of another pair than curve_public_key in the topology")
    return curve.public_key.encode(), secret.encode()
