"""What all gateway processes of one machine know together: rates, connections and tickets that were used.

Several processes serve one port, and a client's next request may reach any of them, so a limit that each kept
for itself would be as many times too wide. They share one file of fixed size in the run folder, mapped into
memory and guarded by a file lock that the kernel takes back from a process that dies. An operation costs a few
microseconds; nothing is written to disk on purpose, and nothing needs to outlive a reboot.

The file is a set-associative table: a subject (a user, an address, a ticket) is hashed to one of `SETS` sets of
`WAYS` entries. In a full set the entry that was used longest ago gives way, if it counts no connection and is no
used ticket that could come again: forgetting an idle bucket only gives its owner a full one. A set full of those
others takes no more, and what is asked is refused.

Each process has a column in which it counts its own connections, and for as long as it lives a lock on that
column's byte of the file: the connections of a process that was killed are known to be gone, whatever it could
still write. Another process's connection is closed by asking (`ask_to_close`); each looks at what it was asked.
"""

import fcntl
import hashlib
import os
import struct
import tempfile
from mmap import mmap
from pathlib import Path
from typing import Final

import numpy as np

from fabric.errors import FabricError
from gateway.limits import Rate

SETS: Final = 4_096
WAYS: Final = 16
PROCESSES_MAX: Final = 64
KEY_BYTES: Final = 16
SECRET_BYTES: Final = 32
HASHES_MAX: Final = 4_096
_VERSION: Final = 1
_HEADER_BYTES: Final = 4_096
_LOCK_BYTE: Final = 0  # the lock of the table; that of column c is byte 1 + c
_FLOCK = struct.Struct("hhqqi4x")  # struct flock, fcntl(2), on 64-bit Linux

_HEAD: Final = struct.Struct("<qqq")  # the token bucket; when last used; a used ticket: not to be forgotten before
_COUNTS: Final = struct.Struct(f"<{PROCESSES_MAX}i")  # connections by process
_ASKED: Final = _COUNTS  # how many of them each was asked to close
_COUNTS_AT: Final = _HEAD.size
_ASKED_AT: Final = _COUNTS_AT + _COUNTS.size
_ENTRY_BYTES: Final = _ASKED_AT + _ASKED.size
_NUMBER: Final = struct.Struct("<i")
_LONG_AGO: Final = -(1 << 62)

_MARK_BYTES: Final = 32
_ASKED_IN_ALL_AT: Final = 512  # in the header: what each process was asked to close in all
_TAKEN_AT: Final = 1_024  # in the header: 1 for each column that a process has taken, and may have died with
_KEYS_BYTES: Final = SETS * WAYS * KEY_BYTES
_ENTRIES_AT: Final = _HEADER_BYTES + _KEYS_BYTES
_FILE_BYTES: Final = _ENTRIES_AT + SETS * WAYS * _ENTRY_BYTES
_NOBODY: Final = bytes(KEY_BYTES)


class Shared:
    """This process's view of the table. Every method takes the lock for the few microseconds that it works."""

    def __init__(self, path: Path | None = None) -> None:
        """Open, or make, the table at ``path``; None: one of this process alone. Raises FabricError."""
        self._fd = _open(path)
        self._table_lock = _Lock(self._fd)
        self._hashed: dict[str, tuple[bytes, int]] = {}
        try:
            with self._locked():
                self._map()
        except OSError as error:
            os.close(self._fd)
            raise FabricError(f"{path}: the table of limits: {error.strerror or error}") from error
        self.full = 0  # how often a set had no room: counted, since what was asked is then refused

    def _map(self) -> None:
        """Map the file, made anew when it is of another boot or version, and take a column."""
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
        version = b"%d %d %d " % (_VERSION, _FILE_BYTES, PROCESSES_MAX)
        mark = hashlib.blake2b(version + boot, digest_size=_MARK_BYTES).digest()
        if os.pread(self._fd, _MARK_BYTES, 0) != mark or os.fstat(self._fd).st_size != _FILE_BYTES:
            os.ftruncate(self._fd, 0)
            os.ftruncate(self._fd, _FILE_BYTES)
            os.pwrite(self._fd, mark + os.urandom(SECRET_BYTES), 0)
        self._memory = mmap(self._fd, _FILE_BYTES)
        self.secret = self._memory[_MARK_BYTES : _MARK_BYTES + SECRET_BYTES]
        self.column = next((c for c in range(PROCESSES_MAX) if self._hold(c)), -1)
        if self.column < 0:
            raise OSError(0, f"more than {PROCESSES_MAX} gateway processes")
        self._forget_dead()
        if self._read(_TAKEN_AT)[self.column]:
            self._clear(self.column)
        self._add(_TAKEN_AT, self.column, 1)

    def close(self) -> None:
        """Give the column back; what it counts is gone."""
        with self._locked():
            self._clear(self.column)
        self._memory.close()
        os.close(self._fd)

    def take(self, subject: str, rate: Rate, now_ns: int) -> tuple[int, int]:
        """Take one token of a subject's bucket: (0, tokens left), or (how many ns to wait, 0).

        ``now_ns`` is of the monotonic clock, which all processes of the machine share.
        """
        with self._locked():
            at = self._place(subject, now_ns)
            if at < 0:
                return rate.ns_per_token, 0
            since_ns, used_ns, kept_until_ns = _HEAD.unpack_from(self._memory, at)
            since_ns, wait_ns = rate.take(since_ns, now_ns)
            _HEAD.pack_into(self._memory, at, since_ns, used_ns, kept_until_ns)
            return wait_ns, 0 if wait_ns else rate.left(since_ns, now_ns)

    def enter(self, subject: str, most: int, now_ns: int) -> bool:
        """Count one more connection of a subject in this process, unless there are ``most`` of them anywhere."""
        with self._locked():
            at = self._place(subject, now_ns)
            if at < 0:
                return False
            if self._staying(at) >= most:
                self._forget_dead()
                if self._staying(at) >= most:
                    return False
            self._add(at + _COUNTS_AT, self.column, 1)
            return True

    def leave(self, subject: str, now_ns: int) -> None:
        """One connection of the subject less in this process; it also answers one request to close."""
        with self._locked():
            at = self._place(subject, now_ns)
            if at < 0:
                return
            self._add(at + _COUNTS_AT, self.column, -1)
            if self._read(at + _ASKED_AT)[self.column]:
                self._add(at + _ASKED_AT, self.column, -1)
                self._add(_ASKED_IN_ALL_AT, self.column, -1)

    def ask_to_close(self, subject: str, now_ns: int) -> bool:
        """Ask the process with most connections of a subject, this one first, to close its oldest; False: none has.

        From now on that connection is not counted as one, so that its successor can enter.
        """
        with self._locked():
            self._forget_dead()
            at = self._place(subject, now_ns)
            if at < 0:
                return False
            counts, asked = self._read(at + _COUNTS_AT), self._read(at + _ASKED_AT)
            staying = [count - gone for count, gone in zip(counts, asked, strict=True)]
            column = self.column if staying[self.column] > 0 else staying.index(max(staying))
            if staying[column] <= 0:
                return False
            self._add(at + _ASKED_AT, column, 1)
            self._add(_ASKED_IN_ALL_AT, column, 1)
            return True

    def asked(self, subject: str, now_ns: int) -> int:
        """How many connections of the subject this process was asked to close and has not yet."""
        with self._locked():
            at = self._place(subject, now_ns)
            return self._read(at + _ASKED_AT)[self.column] if at >= 0 else 0

    def anyone_asked(self) -> bool:
        """Whether this process was asked to close any connection: a look without the lock, for every turn."""
        return self._read(_ASKED_IN_ALL_AT)[self.column] > 0

    def connections(self, subject: str, now_ns: int) -> int:
        """Connections of a subject in all processes."""
        with self._locked():
            at = self._place(subject, now_ns)
            return sum(self._read(at + _COUNTS_AT)) if at >= 0 else 0

    def use_once(self, subject: str, keep_ns: int, now_ns: int) -> bool:
        """Whether nobody has used ``subject`` before; remembered for ``keep_ns``. False also where it finds no room."""
        with self._locked():
            at = self._place(subject, now_ns)
            if at < 0:
                return False
            since_ns, used_ns, kept_until_ns = _HEAD.unpack_from(self._memory, at)
            if kept_until_ns > now_ns:
                return False
            _HEAD.pack_into(self._memory, at, since_ns, used_ns, now_ns + keep_ns)
            return True

    def _place(self, subject: str, now_ns: int) -> int:
        """Where the entry of a subject is in the file, made if there is none; -1 when its set has no room."""
        key, first = self._hashed.get(subject) or self._hash(subject)
        start = _HEADER_BYTES + first * KEY_BYTES
        keys = self._memory[start : start + WAYS * KEY_BYTES]
        found = keys.find(key)
        while found >= 0 and found % KEY_BYTES:  # inside two others: it goes on behind it
            found = keys.find(key, found + 1)
        if found < 0:
            return self._make(key, first, keys, now_ns)
        at = _ENTRIES_AT + (first + found // KEY_BYTES) * _ENTRY_BYTES
        since_ns, _, kept_until_ns = _HEAD.unpack_from(self._memory, at)
        _HEAD.pack_into(self._memory, at, since_ns, now_ns, kept_until_ns)
        return at

    def _hash(self, subject: str) -> tuple[bytes, int]:
        """The key of a subject and the first entry of its set; those asked for of late are remembered."""
        key = hashlib.blake2b(subject.encode(), digest_size=KEY_BYTES, key=self.secret).digest()
        if len(self._hashed) >= HASHES_MAX:
            self._hashed.clear()
        self._hashed[subject] = found = (key, int.from_bytes(key[:4], "little") % SETS * WAYS)
        return found

    def _make(self, key: bytes, first: int, keys: bytes, now_ns: int) -> int:
        """An entry for a new subject: an empty one, or the one that was used longest ago among those that may go."""
        best, best_used_ns = -1, 0
        for way in range(WAYS):
            at = _ENTRIES_AT + (first + way) * _ENTRY_BYTES
            if keys[way * KEY_BYTES : (way + 1) * KEY_BYTES] == _NOBODY:
                best = way
                break
            _, used_ns, kept_until_ns = _HEAD.unpack_from(self._memory, at)
            may_go = kept_until_ns <= now_ns and not any(self._read(at + _COUNTS_AT))
            if may_go and (best < 0 or used_ns < best_used_ns):
                best, best_used_ns = way, used_ns
        if best < 0:
            self.full += 1
            return -1
        start = _HEADER_BYTES + (first + best) * KEY_BYTES
        self._memory[start : start + KEY_BYTES] = key
        at = _ENTRIES_AT + (first + best) * _ENTRY_BYTES
        self._memory[at : at + _ENTRY_BYTES] = _HEAD.pack(_LONG_AGO, now_ns, _LONG_AGO).ljust(_ENTRY_BYTES, b"\0")
        return at

    def _read(self, at: int) -> tuple[int, ...]:
        """The numbers of all columns at this place of the file."""
        return _COUNTS.unpack_from(self._memory, at)

    def _add(self, at: int, column: int, change: int) -> None:
        where = at + 4 * column
        (number,) = _NUMBER.unpack_from(self._memory, where)
        _NUMBER.pack_into(self._memory, where, max(0, number + change))

    def _staying(self, at: int) -> int:
        """Connections of an entry that were not asked to close."""
        return max(0, sum(self._read(at + _COUNTS_AT)) - sum(self._read(at + _ASKED_AT)))

    def _forget_dead(self) -> None:
        """Clear the columns of processes that are gone."""
        for column, taken in enumerate(self._read(_TAKEN_AT)):
            if taken and column != self.column and self._hold(column):
                self._clear(column)
                self._lock(fcntl.F_UNLCK, 1 + column)

    def _clear(self, column: int) -> None:
        """What a process counted is gone; a rare scan of the whole table."""
        for at in (_ASKED_IN_ALL_AT, _TAKEN_AT):
            self._add(at, column, -(1 << 30))
        table = np.frombuffer(self._memory, np.uint8, SETS * WAYS * _ENTRY_BYTES, _ENTRIES_AT)
        numbers = table.reshape(-1, _ENTRY_BYTES)[:, _COUNTS_AT:].view("<i4")
        for place in (column, PROCESSES_MAX + column):
            where = np.flatnonzero(numbers[:, place])  # only those: a page that is written is one more of memory
            numbers[where, place] = 0

    def _hold(self, column: int) -> bool:
        """Take the lock of a column if no living process has it."""
        try:
            self._lock(fcntl.F_WRLCK, 1 + column)
        except BlockingIOError:
            return False
        return True

    def _locked(self) -> "_Lock":
        return self._table_lock

    def _lock(self, kind: int, byte: int) -> None:
        """An open-file-description lock (fcntl(2)): it belongs to this opening of the file, and ends with it."""
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0))


class _Lock:
    """The lock of the table, which every operation takes: a few microseconds, so waiting for it is no pause."""

    _TAKE: Final = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _LOCK_BYTE, 1, 0)
    _GIVE: Final = _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, _LOCK_BYTE, 1, 0)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> None:
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLKW, self._TAKE)

    def __exit__(self, *_: object) -> None:
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, self._GIVE)


def _open(path: Path | None) -> int:
    if path is None:
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise FabricError(f"{path}: the table of limits: {error.strerror}") from error
