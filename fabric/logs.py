"""What the nodes of a topology print: to bounded files, and prefixed with the node's name to the launcher's output.

The launcher must never wait for a terminal that is held (Ctrl-S), a pager that is not read or a node that prints
without end. So each source is split here under three bounds: a line has at most `LINE_MAX` bytes, a node keeps
`KEPT_A_SECOND` bytes a second and the rest is counted, and a node that prints `READ_A_SECOND` waits in its own
`write` for the next second. The output is written only when it can be, up to `PENDING_MAX` behind.
"""

import os
import select
from collections import deque
from contextlib import suppress
from pathlib import Path

from fabric.clock import SECOND_NS

LINE_MAX = 8 * 1024
CUT = b" [cut]"
KEPT_A_SECOND = 256 * 1024
READ_A_SECOND = 4 * 1024 * 1024
FILE_MAX = 5 * 1000 * 1000
"""Bytes of a log before it becomes ``NAME.log.1``, in place of the one before."""
PENDING_MAX = 1024 * 1024
_PRINTABLE = bytes(byte if (byte >= 32 and byte != 127) or byte == 9 else ord("?") for byte in range(256))
"""A node's line must not move the cursor of the reader's terminal."""
_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)


class LogFile:
    """A file that is appended to and keeps at most two times `FILE_MAX`. A full disk costs lines, not the launcher."""

    def __init__(self, path: Path, bytes_max: int = FILE_MAX) -> None:
        self._path = path
        self._bytes_max = bytes_max
        self.lost = 0
        self._open()

    def write(self, data: bytes) -> None:
        """Append whole lines."""
        try:
            if self._size + len(data) > self._bytes_max and self._size:
                self._turn_over()
        except OSError:
            self.lost += 1  # and nothing more is kept, so that the bound holds, until it can be
            return
        try:
            self._size += os.write(self._descriptor, data)
        except OSError:
            self.lost += 1

    def close(self) -> None:
        os.close(self._descriptor)

    def _turn_over(self) -> None:
        """Begin the file anew; the old descriptor is good until there is a new one. Raises OSError."""
        before = self._descriptor
        with suppress(FileNotFoundError):  # moved by an attempt that failed afterwards
            self._path.replace(self._path.with_name(self._path.name + ".1"))
        self._open()
        os.close(before)

    def _open(self) -> None:
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._descriptor).st_size


class Console:
    """The launcher's own output, written without ever waiting for it. Colours only for a terminal that wants them."""

    def __init__(self, descriptor: int = 1) -> None:
        self._descriptor = descriptor
        self._pending: deque[bytes] = deque()
        self._pending_bytes = 0
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._gone = False
        self.lost = 0
        self.coloured = os.isatty(descriptor) and not os.environ.get("NO_COLOR")

    @property
    def behind(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._pending) and not self._gone

    def write(self, data: bytes) -> None:
        """Take ``data`` (whole lines), and write what can be written now; beyond the bound it is counted instead."""
        if self._gone or self._pending_bytes + len(data) > PENDING_MAX:
            self.lost += 1
            return
        self._pending.append(data)
        self._pending_bytes += len(data)
        self.flush()

    def flush(self) -> None:
        """Write while the descriptor says that it would not block: at most 4,096 bytes at once, as POLLOUT promises."""
        while self._pending and not self._gone:
            ready = self._poll.poll(0)
            if not ready or not ready[0][1] & select.POLLOUT:
                self._gone = bool(ready)  # POLLERR or POLLHUP: the reader has left
                return
            data = self._pending.popleft()
            try:
                written = os.write(self._descriptor, data[:4096])
            except BlockingIOError:
                written = 0
            except OSError:
                self._gone = True
                return
            self._pending_bytes -= written
            if written < len(data):
                self._pending.appendleft(data[written:])

    def prefix(self, name: str, width: int, index: int) -> bytes:
        """``name |``, padded to ``width`` and, on a terminal, in the colour of ``index``."""
        text = f"{name:<{width}} |"
        if self.coloured:
            text = f"\x1b[{_COLOURS[index % len(_COLOURS)]}m{text}\x1b[0m"
        return text.encode() + b" "


class Combined:
    """The lines of all nodes in the order in which they came: in one file and, where there is one, on the console."""

    def __init__(self, path: Path, console: Console | None, names: tuple[str, ...], passed_through: bool) -> None:
        """``passed_through``: lines are JSON that names its node already, so nothing is put before them."""
        self.console = console
        self._file = LogFile(path)
        width = max(map(len, names))
        self._plain = {name: b"" if passed_through else f"{name:<{width}} | ".encode() for name in names}
        self._shown = {name: self._plain[name] for name in names}
        if console is not None and not passed_through:
            self._shown = {name: console.prefix(name, width, index) for index, name in enumerate(names)}

    def write(self, name: str, lines: list[bytes]) -> None:
        """Lines of node ``name``, without their ends."""
        plain, shown = self._plain[name], self._shown[name]
        self._file.write(b"".join(plain + line + b"\n" for line in lines))
        if self.console is not None:
            for line in lines:
                self.console.write(shown + line + b"\n")

    def close(self) -> None:
        self._file.close()
        if self.console is not None:
            self.console.flush()


class NodeLog:
    """Splits what one node prints into lines, under the bounds of this module."""

    def __init__(self, name: str, path: Path, combined: Combined) -> None:
        self.name = name
        self.dropped = 0
        """Lines that were not kept, in all."""
        self._file = LogFile(path)
        self._combined = combined
        self._rest = b""
        self._cutting = False  # the rest of a line that was too long is passed over
        self._second = 0
        self._read = 0
        self._kept = 0
        self._dropped_now = 0

    def exhausted(self, now_ns: int) -> bool:
        """Whether the node has printed all that is read in this second; then its pipe is left alone until the next."""
        self._turn(now_ns)
        return self._read >= READ_A_SECOND

    def feed(self, data: bytes, now_ns: int) -> None:
        """Take what came from the node's pipe; ``now_ns`` is monotonic."""
        self._turn(now_ns)
        self._read += len(data)
        if self._kept > KEPT_A_SECOND:
            self._drop(data)
            return
        *lines, rest = (self._rest + data).split(b"\n")
        kept = []
        for line in lines:
            if self._cutting:  # the head of this line has been kept already
                self._cutting = False
            else:
                kept.append(self._clean(line))
        if self._cutting:
            rest = b""
        elif len(rest) > LINE_MAX:
            kept.append(self._clean(rest))
            self._cutting, rest = True, b""
        self._rest = rest
        self._write(kept)

    def say(self, line: str) -> None:
        """A line of the launcher's own in this log."""
        self._write([self._clean(line.encode())])

    def end_of_stream(self) -> None:
        """The node has ended: what stands without a line end is its last line."""
        if self._rest:
            self._write([self._clean(self._rest)])
        self._tell_dropped()
        self._rest, self._cutting = b"", False

    def close(self) -> None:
        self.end_of_stream()
        self._file.close()

    def _turn(self, now_ns: int) -> None:
        second = now_ns // SECOND_NS
        if second != self._second:
            self._second, self._read, self._kept = second, 0, 0
            self._tell_dropped()

    def _drop(self, data: bytes) -> None:
        """Count the lines that end in ``data``; what begins here is passed over to its end, wherever that comes."""
        self._dropped_now += data.count(b"\n")
        self._rest, self._cutting = b"", not data.endswith(b"\n")

    def _tell_dropped(self) -> None:
        if self._dropped_now:
            self.dropped += self._dropped_now
            self._write([b"[%d lines dropped: more than %d kB a second]" % (self._dropped_now, KEPT_A_SECOND // 1024)])
            self._dropped_now = 0

    def _clean(self, line: bytes) -> bytes:
        line = line.removesuffix(b"\r")
        return (line if len(line) <= LINE_MAX else line[:LINE_MAX] + CUT).translate(_PRINTABLE)

    def _write(self, lines: list[bytes]) -> None:
        if lines:
            self._kept += sum(map(len, lines)) + len(lines)
            self._file.write(b"".join(line + b"\n" for line in lines))
            self._combined.write(self.name, lines)


def tail(path: Path, lines: int) -> tuple[list[bytes], int]:
    """The last ``lines`` of a log and the part before it, without their ends, and where in the log that was."""
    data = path.read_bytes()
    found = data.splitlines()
    if len(found) < lines:
        with suppress(FileNotFoundError):
            found = path.with_name(path.name + ".1").read_bytes().splitlines() + found
    return found[-lines:] if lines else [], len(data)
