"""The load generator's inner loop, compiled: sweep thousands of WebSockets in a circle, read, judge and count.

There is no epoll: each round asks its sockets once (`recvmsg`, non-blocking), which costs half of what waiting for each
does. When a frame came is told by the kernel (SO_TIMESTAMPNS), so that the round's own length is in no figure. Where
several frames are read at once they have the stamp of the last: so latency is measured on the timed clients only, which
every round asks; even there the error is against the server. The others are asked less often, for reading two or three
frames at once costs half as much, and nothing but latency is judged differently.

An update is any JSON map that begins with ``{"T":"q","S":"`` in a frame's payload, whatever stands around it: an array
of ours, a single message, NATS' text. Of each one it is checked that its client asked for the symbol, that its time is
later than that of the one before (nothing twice, nothing back), and that its bytes, but for ``k``, are those that
every other client got for that symbol and time. The bytes of the first are kept, to be compared with the publisher's.
"""

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit, types

from fabric import native

memchr = types.ExternalFunction("memchr", types.uintp(types.uintp, types.int32, types.uintp))
recvmsg = types.ExternalFunction("recvmsg", types.int64(types.int32, types.uintp, types.int32))

READ_BYTES: Final = 256 << 10
"""Of one read, with what was left of the last."""
TAIL_BYTES: Final = 80 << 10
"""Of a frame that has not come whole; pages of it that are never used cost nothing."""
SEEN: Final = 32
"""Times of a symbol whose bytes are remembered, to compare other clients' with."""
BIN_NS: Final = 500_000
BINS: Final = 40_000
"""Of the histogram of latencies: half a millisecond each, to 20 s."""
DAY_NS: Final = 86_400_000_000_000
_HEADER: Final = 64
"""Bytes kept for the msghdr (56)."""
_CONTROL: Final = 64
"""Bytes for the ancillary message: header 16, stamp 16."""
_PREFIX: Final = np.frombuffer(b'{"T":"q","S":"', np.uint8)

COUNTERS: Final = (
    "frames",
    "bytes",
    "updates",  # that passed every check, in the window
    "replaced",  # sum of `k` in the window
    "repeated",  # not later than the one before
    "foreign",  # a symbol that the client did not ask for
    "different",  # other bytes than another client got
    "torn",  # what is no update where one began, or a frame that cannot be
    "timed",  # of timed clients in the window
    "together",  # of these, read together with a later one: their stamp is too late
    "pings",
    "closed",  # connections that ended
    "reads",
    "notices",  # messages of any other kind
)
(_FRAMES, _BYTES, _UPDATES, _REPLACED, _REPEATED, _FOREIGN, _DIFFERENT, _TORN, _TIMED, _TOGETHER, _PINGS, _CLOSED,
 _READS, _NOTICES) = range(len(COUNTERS))  # fmt: skip

ENTRY: Final = np.dtype(
    [
        ("symbol", "<i8"),  # index of its name
        ("low", "<i8"),  # first eight bytes of that
        ("high", "<i8"),  # and the others
        ("last_ns", "<i8"),  # time of the last update
        ("first_ns", "<i8"),  # of the first in the window, 0 for none
        ("until_ns", "<i8"),  # of the last in the window
        ("count", "<i8"),  # updates in the window
        ("replaced", "<i8"),  # sum of their `k`, but for the first's
    ]
)
_ENTRY_BYTES: Final = ENTRY.itemsize
FETCHED_MAX: Final = 32
"""Entries of a client whose memory is asked for before it is used."""
FRESH: Final = np.dtype([("symbol", "<i8"), ("time_ns", "<i8"), ("at", "<i8"), ("size", "<i8")])


class Load(NamedTuple):
    """Every array of the generator."""

    fds: npt.NDArray[np.int64]  # [clients] -1 when closed
    order: npt.NDArray[np.int64]  # [those who read] in which they are asked: the timed first
    timed: npt.NDArray[np.int64]  # [clients] 1: latency is measured
    close_codes: npt.NDArray[np.int64]  # [clients] of the server's Close frame, or 0
    entries: npt.NDArray[np.void]  # ENTRY[clients, symbols of each]
    tails: npt.NDArray[np.uint8]  # [clients, TAIL_BYTES]
    tail_sizes: npt.NDArray[np.int64]  # [clients]
    names: npt.NDArray[np.int64]  # [table, 3] first and last eight bytes of a name, its index or -1: open addressing
    seen_ns: npt.NDArray[np.int64]  # [symbols, SEEN]
    seen_hash: npt.NDArray[np.int64]
    seen_next: npt.NDArray[np.int64]  # [symbols]
    fresh: npt.NDArray[np.void]  # FRESH: what was seen for the first time
    fresh_bytes: npt.NDArray[np.uint8]
    fresh_ends: npt.NDArray[np.int64]  # [2] rows of `fresh`, bytes of `fresh_bytes`
    checked: npt.NDArray[np.int64]  # [symbols] 1: its first bytes are kept
    bins: npt.NDArray[np.int64]  # [BINS] latencies
    extremes: npt.NDArray[np.int64]  # [2] least and greatest latency
    counters: npt.NDArray[np.int64]
    buffer: npt.NDArray[np.uint8]  # [READ_BYTES]
    header: npt.NDArray[np.int64]  # one msghdr, its iovec, and the ancillary message, as words


def make(
    fds: list[int], wanted: npt.NDArray[np.int64], names: tuple[str, ...], checked_every: int,
    order: npt.NDArray[np.int64], timed: int,
) -> Load:  # fmt: skip
    """Allocate for clients that subscribed ``wanted[client]`` (indices of ``names``); the first ``timed`` of ``order``
    are timed.
    """
    clients, each = wanted.shape
    is_timed = np.zeros(clients, np.int64)
    is_timed[order[:timed]] = 1
    entries = np.zeros((clients, each), ENTRY)
    entries["symbol"] = wanted
    size = 1 << (4 * len(names)).bit_length()
    table = np.full((size, 3), -1, np.int64)
    words = np.array(
        [[int.from_bytes(n.encode()[i : i + 8].ljust(8, b"\0"), "little", signed=True) for i in (0, 8)] for n in names]
    )
    entries["low"], entries["high"] = words[wanted, 0], words[wanted, 1]
    for index, (low, high) in enumerate(words.tolist()):
        place = name_place.py_func(low, high, size)
        while table[place, 2] >= 0:
            place = (place + 1) % size
        table[place] = low, high, index
    header = np.zeros((_HEADER + 16 + _CONTROL) // 8, np.int64)
    return Load(
        fds=np.array(fds, np.int64),
        order=order,
        timed=is_timed,
        close_codes=np.zeros(clients, np.int64),
        entries=entries,
        tails=np.zeros((clients, TAIL_BYTES), np.uint8),
        tail_sizes=np.zeros(clients, np.int64),
        names=table,
        seen_ns=np.zeros((len(names), SEEN), np.int64),
        seen_hash=np.zeros((len(names), SEEN), np.int64),
        seen_next=np.zeros(len(names), np.int64),
        fresh=np.zeros(2_000_000, FRESH),
        fresh_bytes=np.zeros(400 << 20, np.uint8),
        fresh_ends=np.zeros(2, np.int64),
        checked=(np.arange(len(names)) % checked_every == 0).astype(np.int64),
        bins=np.zeros(BINS, np.int64),
        extremes=np.array([2**62, -(2**62)]),
        counters=np.zeros(len(COUNTERS), np.int64),
        buffer=np.zeros(READ_BYTES, np.uint8),
        header=header,
    )


@njit(forceinline=True, _nrt=False)
def name_place(low: Any, high: Any, size: int) -> int:
    """Where a name's search begins."""
    mixed = (low ^ (high << 1)) & 0x7FFFFFFFFFFFFFFF
    mixed ^= mixed >> 33
    mixed = (mixed * 0x2545F4914F6CDD1D) & 0x7FFFFFFFFFFFFFFF
    mixed ^= mixed >> 29
    return mixed & (size - 1)


@njit(forceinline=True, _nrt=False)
def _name_index(names: Any, low: int, high: int) -> int:
    place = name_place(low, high, names.shape[0])
    while names[place, 2] >= 0:
        if names[place, 0] == low and names[place, 1] == high:
            return names[place, 2]
        place = (place + 1) & (names.shape[0] - 1)
    return -1


@njit(forceinline=True, _nrt=False)
def _number(buffer: Any, at: int, size: int) -> int:
    value = 0
    for i in range(at, at + size):
        value = value * 10 + (np.int64(buffer[i]) - 48)
    return value


@njit(forceinline=True, _nrt=False)
def _hash(address: int, size: int) -> int:
    """Of bytes, eight at a time; the last eight overlap."""
    value = np.int64(size)
    done = 0
    while done + 8 <= size:
        value = (value ^ native.load_int64(address + done)) * np.int64(0x2545F4914F6CDD1D)
        value ^= value >> 29
        done += 8
    if done < size:
        value = (value ^ native.load_int64(address + size - 8)) * np.int64(0x2545F4914F6CDD1D)
        value ^= value >> 29
    return value


@njit(forceinline=True, _nrt=False)
def _update(
    load: Any, client: int, at: int, end: int, received_ns: int, month_ns: int, from_ns: int, to_ns: int
) -> None:
    """Judge the update in ``buffer[at:end]``, which begins with the prefix and ends after its brace."""
    buffer = load.buffer
    begin = at + 14
    size = 0
    low = np.int64(0)
    high = np.int64(0)
    while size < 16 and buffer[begin + size] != 34:
        if size < 8:
            low |= np.int64(buffer[begin + size]) << (8 * size)
        else:
            high |= np.int64(buffer[begin + size]) << (8 * (size - 8))
        size += 1
    # From the end: `,"k":N`, then `,"st":N`, then the time.
    stop = end - 1
    replaced = 0
    digits = stop
    while 48 <= buffer[digits - 1] <= 57:
        digits -= 1
    if digits < stop and buffer[digits - 3] == 107:
        replaced = _number(buffer, digits, stop - digits)
        stop = digits - 5
        digits = stop
        while 48 <= buffer[digits - 1] <= 57:
            digits -= 1
    stamp = stop if digits == stop else digits - 6
    if stamp - at < 60 or buffer[stamp - 1] != 34 or buffer[stamp - 2] != 90:
        load.counters[_TORN] += 1
        return
    stamp -= 31  # the year's first digit
    time_ns = _number(buffer, stamp + 20, 9)
    time_ns += 1_000_000_000 * _number(buffer, stamp + 17, 2)
    time_ns += 60_000_000_000 * _number(buffer, stamp + 14, 2)
    time_ns += 3_600_000_000_000 * _number(buffer, stamp + 11, 2)
    time_ns += month_ns + DAY_NS * (_number(buffer, stamp + 8, 2) - 1)
    place = -1
    for i in range(load.entries.shape[1]):
        if load.entries[client, i]["low"] == low and load.entries[client, i]["high"] == high:
            place = i
            break
    if place < 0:
        load.counters[_TORN if _name_index(load.names, low, high) < 0 else _FOREIGN] += 1
        return
    entry = load.entries[client, place]
    symbol: Any = np.int64(entry["symbol"])
    if time_ns <= entry["last_ns"]:
        load.counters[_REPEATED] += 1
        return
    entry["last_ns"] = time_ns
    value = _hash(buffer.ctypes.data + at, stop - at)
    newest = load.seen_next[symbol] - 1
    found = -1
    for i in range(SEEN):
        if load.seen_ns[symbol, (newest - i) & (SEEN - 1)] == time_ns:
            found = (newest - i) & (SEEN - 1)
            break
    if found >= 0:
        if load.seen_hash[symbol, found] != value:
            load.counters[_DIFFERENT] += 1
            return
    else:
        found = load.seen_next[symbol] & (SEEN - 1)
        load.seen_next[symbol] += 1
        load.seen_ns[symbol, found] = time_ns
        load.seen_hash[symbol, found] = value
        rows = load.fresh_ends[0]
        to = load.fresh_ends[1]
        if load.checked[symbol] == 1 and rows < load.fresh.size and to + stop - at <= load.fresh_bytes.size:
            fresh = load.fresh[rows]
            fresh["symbol"] = symbol
            fresh["time_ns"] = time_ns
            fresh["at"] = to
            fresh["size"] = stop - at
            for i in range(stop - at):
                load.fresh_bytes[to + i] = buffer[at + i]
            load.fresh_ends[0] += 1
            load.fresh_ends[1] += stop - at
    if received_ns < from_ns or received_ns >= to_ns:
        return
    if entry["first_ns"] == 0:
        entry["first_ns"] = time_ns
    else:
        entry["replaced"] += replaced
    entry["until_ns"] = time_ns
    entry["count"] += 1
    load.counters[_UPDATES] += 1
    load.counters[_REPLACED] += replaced
    if load.timed[client] == 0:
        return
    late_ns = received_ns - time_ns
    load.extremes[0] = min(load.extremes[0], late_ns)
    load.extremes[1] = max(load.extremes[1], late_ns)
    load.bins[min(max(late_ns // BIN_NS, 0), BINS - 1)] += 1


@njit(forceinline=True, _nrt=False)
def _payload(
    load: Any, client: int, at: int, end: int, received_ns: int, month_ns: int, from_ns: int, to_ns: int
) -> None:
    """Find the updates in a frame's payload, and count what else is in it."""
    buffer = load.buffer
    address = buffer.ctypes.data
    while at < end:
        found = np.int64(memchr(address + at, np.int32(123), end - at))
        if found == 0:
            return
        at = found - address
        matches = end - at > 14
        if matches:
            for i in range(14):
                if buffer[at + i] != _PREFIX[i]:
                    matches = False
                    break
        stop = np.int64(memchr(address + at, np.int32(125), end - at))
        if stop == 0:
            load.counters[_TORN] += 1
            return
        stop = stop - address + 1
        if matches:
            _update(load, client, at, stop, received_ns, month_ns, from_ns, to_ns)
        else:
            load.counters[_NOTICES] += 1
        at = stop


@njit(forceinline=True, _nrt=False)
def _frames(load: Any, client: int, size: int, received_ns: int, month_ns: int, from_ns: int, to_ns: int) -> int:
    """Take the whole frames in ``buffer[:size]``; return where the first begins that is not whole, or -1: broken."""
    buffer = load.buffer
    at = 0
    inside = from_ns <= received_ns < to_ns
    before = 0
    while size - at >= 2:
        first = np.int64(buffer[at])
        length = np.int64(buffer[at + 1])
        begin = at + 2
        if length >= 128:  # a server masks nothing
            load.counters[_TORN] += 1
            return -1
        if length >= 126:
            width = 2 if length == 126 else 8
            if size - begin < width:
                break
            length = 0
            for i in range(width):
                length = (length << 8) | np.int64(buffer[begin + i])
            begin += width
        if size - begin < length:
            break
        kind = first & 15
        if first & 0x70 != 0 or (kind > 2 and kind < 8) or kind > 10:
            load.counters[_TORN] += 1
            return -1
        if kind <= 2:
            if inside:
                load.counters[_FRAMES] += 1
                if load.timed[client] == 1:
                    load.counters[_TIMED] += 1
                    load.counters[_TOGETHER] += before
                before = 1
                load.counters[_BYTES] += begin + length - at
            _payload(load, client, begin, begin + length, received_ns, month_ns, from_ns, to_ns)
        elif kind == 8:
            if length >= 2:
                load.close_codes[client] = (np.int64(buffer[begin]) << 8) | np.int64(buffer[begin + 1])
        elif kind == 9:  # answer with the same bytes, under a mask of zeros
            load.counters[_PINGS] += 1
            pong = load.tails[client]
            pong[0] = 0x8A
            pong[1] = 0x80 | length
            for i in range(4):
                pong[2 + i] = 0
            for i in range(length):
                pong[6 + i] = buffer[begin + i]
            native.send(np.int32(load.fds[client]), pong.ctypes.data, 6 + length, np.int32(0x4040))
        at = begin + length
    return at


@njit(forceinline=True, _nrt=False)
def _fetch(load: Any, place: int, stop: int) -> None:
    """Ask for the memory of the clients that are asked next: their own lines, then those of their symbols."""
    if place + 2 < stop:
        client = load.order[place + 2]
        first = load.entries.ctypes.data + client * load.entries.shape[1] * _ENTRY_BYTES
        for line in range(0, min(load.entries.shape[1], FETCHED_MAX) * _ENTRY_BYTES, 64):
            native.prefetch(first + line)
        native.prefetch(load.fds.ctypes.data + client * 8)
        native.prefetch(load.tail_sizes.ctypes.data + client * 8)
    if place + 1 < stop:
        client = load.order[place + 1]
        for i in range(min(load.entries.shape[1], FETCHED_MAX)):
            symbol: Any = np.int64(load.entries[client, i]["symbol"])
            newest = symbol * SEEN + ((load.seen_next[symbol] - 1) & (SEEN - 1))
            native.prefetch(load.seen_ns.ctypes.data + newest * 8)
            native.prefetch(load.seen_hash.ctypes.data + newest * 8)


@njit(nogil=True, _nrt=False)
def sweep(load: Any, first: int, stop: int, month_ns: int, from_ns: int, to_ns: int) -> int:
    """Ask each client of ``order[first:stop]`` once; return how many had something.

    ``month_ns`` is when this month began; latencies and counts are of what came in ``[from_ns, to_ns)``.
    """
    header = load.header
    words = header.ctypes.data
    busy = 0
    for place in range(first, stop):
        client = load.order[place]
        fd = load.fds[client]
        if fd < 0:
            continue
        _fetch(load, place, stop)
        kept = load.tail_sizes[client]
        # msghdr: name, namelen, iov, iovlen, control, controllen, flags; then iovec; then the ancillary message.
        header[0] = 0
        header[1] = 0
        header[2] = words + 64
        header[3] = 1
        header[4] = words + 80
        header[5] = 64
        header[6] = 0
        header[8] = load.buffer.ctypes.data + kept
        header[9] = READ_BYTES - kept
        load.counters[_READS] += 1
        size = np.int64(recvmsg(np.int32(fd), words, np.int32(0x40)))
        if size < 0:
            error = np.int64(native.errno())
            if error != native.EAGAIN and error != native.EINTR:
                load.fds[client] = -1
                load.counters[_CLOSED] += 1
            continue
        if size == 0:
            load.fds[client] = -1
            load.counters[_CLOSED] += 1
            continue
        busy += 1
        received_ns = 0
        if header[5] >= 32:
            received_ns = header[12] * 1_000_000_000 + header[13]
        for i in range(kept):
            load.buffer[i] = load.tails[client, i]
        total = kept + size
        at = _frames(load, client, total, received_ns, month_ns, from_ns, to_ns)
        if at < 0 or total - at > TAIL_BYTES:
            load.fds[client] = -1
            load.counters[_CLOSED] += 1
            continue
        load.tail_sizes[client] = total - at
        for i in range(total - at):
            load.tails[client, i] = load.buffer[at + i]
    return busy
