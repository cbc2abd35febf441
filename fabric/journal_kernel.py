"""The log's inner loops: append a message, check a record, walk a segment, pick what a reader asked for.

A record, padded with zeros to whole words of eight bytes, little-endian:

    0   CRC-32C of all the rest, padding included, with this field taken as zero
    4   bytes of the record without its padding (24 bits), bytes of the topic (8 bits)
    8   position O in the publisher's log
    16  stamp of publication, ns since the epoch, UTC
    24  epoch E of the publisher
    32  topic, then payload: the two frames of the bus

The writer is one thread that holds the GIL while a kernel runs, so an int64 table is all it shares with the
thread that makes room and syncs. Readers give their own buffers and run without the GIL.

Source of the CRC: RFC 3720 (appendix B.4 has test vectors), computed by the instruction of SSE 4.2 where there is one.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from fabric.compiled import lean, lean_kernel, waiting_kernel
from fabric.native import (
    EINVAL,
    HAS_CRC32C,
    MADV_POPULATE_WRITE,
    MS_SYNC,
    crc32c_word,
    errno,
    load_int64,
    madvise,
    memcmp,
    memcpy,
    msync,
    store_int64,
)

HEAD_BYTES = 32
DATA_AT = 64
"""Where the first record of a segment begins, after its head."""
RECORD_MAX = 8_192
"""Bytes of the longest record that a reader believes in; the bus's own bound on a payload is half of it."""
INDEX_EVERY = 64 * 1024
"""A segment's index has one entry (position, stamp, offset) for so many bytes."""
PREFIX_MAX = 64
PAGE = 4_096
FILTER_BITS = 8
"""A filter of topics has so many bits of a hash of their first letters as its index."""
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # 2^64 by the golden ratio, as a signed number

# The state that the publishing kernel and the log's thread share, int64[J_WIDTH].
J_ON = 0
J_ADDRESS = 1  # of the mapped segment that is written; 0: none
J_SIZE = 2  # its bytes; made 0 to have it left at the next append
J_END = 3  # where its next record goes
J_INDEX = 4  # address of its index
J_INDEX_COUNT = 5
J_INDEX_DUE = 6  # offset from which on the next entry is due
J_NUMBER = 7  # of the segment
J_FIRST = 8  # its first position, 0 while it is empty
J_FIRST_NS = 9
J_NEXT_ADDRESS = 10  # the segment to go on with; 0: none is ready
J_NEXT_SIZE = 11
J_NEXT_INDEX = 12
J_NEXT_NUMBER = 13
J_LEFT_NUMBER = 14  # the segment that was left and is to be sealed; 0: none
J_LEFT_END = 15
J_LEFT_FIRST = 16
J_LEFT_FIRST_NS = 17
J_LEFT_LAST = 18
J_LEFT_LAST_NS = 19
J_LEFT_INDEX_COUNT = 20
J_LEFT_RECORDS = 21
J_POSITION = 22  # of the last record, or of the last message that went by while suspended
J_STAMP_NS = 23  # of the last record
J_RECORDS = 24  # in the segment that is written
J_APPENDED = 25  # since the start
J_BYTES = 26
J_UNLOGGED = 27  # messages that were published while the log was suspended
J_SUSPENDED = 28
J_WAITING = 29  # 1 when an append found no room, until that has been waited for
J_DIRTY_NS = 30  # monotonic time of the oldest append that no sync has begun with; 0: none
J_LAST = 31  # position of the last record
J_WIDTH = 32

# What a walk has found, int64[W_WIDTH].
W_FIRST = 0  # position of the first sound record; 0: none
W_LAST = 1
W_FIRST_NS = 2
W_LAST_NS = 3
W_FIRST_EPOCH = 4
W_LAST_EPOCH = 5
W_RECORDS = 6
W_END = 7  # after the last sound record
W_HOLES = 8  # places between sound records that hold none
W_SKIPPED = 9  # bytes in them
W_INDEXED = 10
W_WIDTH = 12

# A reader's way through the log, int64[S_WIDTH].
S_SEEN = 0  # position of the last sound record that was looked at
S_COUNT = 1  # records given
S_FIRST = 2
S_LAST = 3
S_CRC = 4  # CRC-32C of all bytes given
S_HOLES = 5
S_OUT = 6  # bytes in the buffer
S_STARTED = 7  # 1 when the instant to begin at has been reached
S_DONE = 8  # 1 when a record beyond the last wanted one was seen
S_RESUME = 9  # where in the data to go on
S_EPOCH = 10  # of the last record given
S_WIDTH = 12


def _tables() -> npt.NDArray[np.int64]:
    """Remainders of a byte that is followed by 0 to 7 zero bytes, for the reversed polynomial 0x82F63B78."""
    tables = np.zeros((8, 256), np.int64)
    for byte in range(256):
        remainder = byte
        for _ in range(8):
            remainder = (remainder >> 1) ^ (0x82F63B78 if remainder & 1 else 0)
        tables[0, byte] = remainder
    for n in range(1, 8):
        before = tables[n - 1]
        tables[n] = tables[0, before & 0xFF] ^ (before >> 8)
    return tables


TABLES = _tables()


@lean
def crc_by_instruction(register: int, word: int) -> int:
    """The CRC register after eight more bytes."""
    return crc32c_word(register, word)


@lean
def crc_by_table(register: int, word: int) -> int:
    """The CRC register after eight more bytes, for processors without the instruction."""
    low = (register ^ word) & 0xFFFFFFFF
    high = (word >> 32) & 0xFFFFFFFF
    return (
        TABLES[7, low & 255]
        ^ TABLES[6, (low >> 8) & 255]
        ^ TABLES[5, (low >> 16) & 255]
        ^ TABLES[4, low >> 24]
        ^ TABLES[3, high & 255]
        ^ TABLES[2, (high >> 8) & 255]
        ^ TABLES[1, (high >> 16) & 255]
        ^ TABLES[0, high >> 24]
    )


crc_step: Any = crc_by_instruction if HAS_CRC32C else crc_by_table


@lean
def record_crc(address: int, padded: int) -> int:
    """CRC-32C of the record at ``address``, its own field taken as zero."""
    register = crc_step(0xFFFFFFFF, load_int64(address) & ~0xFFFFFFFF)
    for at in range(8, padded, 8):
        register = crc_step(register, load_int64(address + at))
    return register ^ 0xFFFFFFFF


@waiting_kernel
def crc32c(data: Any, start: int, stop: int, crc: int) -> int:
    """CRC-32C of ``data[start:stop]``, whole words, going on from ``crc`` (0 at the beginning)."""
    register = crc ^ 0xFFFFFFFF
    base = data.ctypes.data
    for at in range(start, stop, 8):
        register = crc_step(register, load_int64(base + at))
    return register ^ 0xFFFFFFFF


@waiting_kernel
def crc32c_by_table(data: Any, start: int, stop: int, crc: int) -> int:
    """As `crc32c`, as a processor without the instruction computes it."""
    register = crc ^ 0xFFFFFFFF
    base = data.ctypes.data
    for at in range(start, stop, 8):
        register = crc_by_table(register, load_int64(base + at))
    return register ^ 0xFFFFFFFF


@lean
def _enter_next(journal: Any) -> None:
    """Leave the segment for the one that stands ready."""
    journal[J_LEFT_NUMBER] = journal[J_NUMBER]
    journal[J_LEFT_END] = journal[J_END]
    journal[J_LEFT_FIRST] = journal[J_FIRST]
    journal[J_LEFT_FIRST_NS] = journal[J_FIRST_NS]
    journal[J_LEFT_LAST] = journal[J_LAST]
    journal[J_LEFT_LAST_NS] = journal[J_STAMP_NS]
    journal[J_LEFT_INDEX_COUNT] = journal[J_INDEX_COUNT]
    journal[J_LEFT_RECORDS] = journal[J_RECORDS]
    journal[J_ADDRESS] = journal[J_NEXT_ADDRESS]
    journal[J_SIZE] = journal[J_NEXT_SIZE]
    journal[J_INDEX] = journal[J_NEXT_INDEX]
    journal[J_NUMBER] = journal[J_NEXT_NUMBER]
    journal[J_END] = DATA_AT
    journal[J_INDEX_COUNT] = 0
    journal[J_INDEX_DUE] = 0
    journal[J_FIRST] = 0
    journal[J_RECORDS] = 0
    journal[J_NEXT_ADDRESS] = 0


@lean
def append(
    journal: Any, message: int, topic_size: int, message_size: int, position: int, epoch: int, stamp_ns: int, now_ns:
    int,
) -> int:  # fmt: skip
    """Write the message at the end of the log; return 1, or 0 where room for it has to be waited for.

    ``message`` is the address of the topic, with the payload right behind it, ``message_size`` bytes in all; up to
    seven bytes behind them are loaded, and not used.

    A position that is in the log already is not written again. While the log is suspended the message is counted.
    """
    if journal[J_ON] == 0 or position <= journal[J_POSITION]:
        return 1
    size = HEAD_BYTES + message_size
    padded = (size + 7) & ~7
    if journal[J_END] + padded > journal[J_SIZE]:
        if journal[J_NEXT_ADDRESS] == 0:
            if journal[J_SUSPENDED] == 0:
                journal[J_WAITING] = 1
                return 0
            journal[J_UNLOGGED] += 1
            journal[J_POSITION] = position
            journal[J_SIZE] = 0  # a shorter message might still fit: a log without room has one end, not many holes
            return 1
        _enter_next(journal)
    end = journal[J_END]
    at = journal[J_ADDRESS] + end
    head = (size | (topic_size << 24)) << 32
    # Each word is copied and taken into the CRC while it is at hand: to read back what a copy has just written, at
    # other boundaries, waits until the mapped memory has it, and doubles the cost.
    register = crc_step(0xFFFFFFFF, head)
    register = crc_step(register, position)
    register = crc_step(register, stamp_ns)
    register = crc_step(register, epoch)
    store_int64(at + 8, position)
    store_int64(at + 16, stamp_ns)
    store_int64(at + 24, epoch)
    to = at + HEAD_BYTES
    whole = message_size & ~7
    for i in range(0, whole, 8):
        word = load_int64(message + i)
        register = crc_step(register, word)
        store_int64(to + i, word)
    if whole < message_size:
        word = load_int64(message + whole) & ((1 << 8 * (message_size - whole)) - 1)
        register = crc_step(register, word)
        store_int64(to + whole, word)
    store_int64(at, head | (register ^ 0xFFFFFFFF))  # last: before it, there is no sound record here
    if end >= journal[J_INDEX_DUE]:
        entry = journal[J_INDEX] + 24 * journal[J_INDEX_COUNT]
        store_int64(entry, position)
        store_int64(entry + 8, stamp_ns)
        store_int64(entry + 16, end)
        journal[J_INDEX_COUNT] += 1
        journal[J_INDEX_DUE] = end + INDEX_EVERY
    if journal[J_FIRST] == 0:
        journal[J_FIRST] = position
        journal[J_FIRST_NS] = stamp_ns
    if journal[J_DIRTY_NS] == 0:
        journal[J_DIRTY_NS] = now_ns
    journal[J_POSITION] = position
    journal[J_LAST] = position
    journal[J_STAMP_NS] = stamp_ns
    journal[J_RECORDS] += 1
    journal[J_APPENDED] += 1
    journal[J_BYTES] += padded
    journal[J_END] = end + padded
    return 1


@lean_kernel
def append_all(journal: Any, data: Any, ends: Any, done: int, epoch: int, stamp_ns: int, now_ns: int) -> int:
    """Append messages laid out as by `codec.lay_out` (with seven bytes to spare behind the last) from the ``done``-th
    on, numbered on from the last; return how many are done. The publisher itself appends in its own kernel.
    """
    base = data.ctypes.data
    for i in range(done, ends.shape[0]):
        begin = ends[i - 1, 1] if i > 0 else 0
        if append(
            journal, base + begin, ends[i, 0] - begin, ends[i, 1] - begin, journal[J_POSITION] + 1, epoch, stamp_ns,
            now_ns,
        ) == 0:  # fmt: skip
            return i
    return ends.shape[0]


@lean
def framed(base: int, at: int, stop: int, last: int) -> int:
    """As `sound`, by the record's head alone, without its CRC."""
    if at + 8 > stop:
        return -1
    word = load_int64(base + at)
    size = (word >> 32) & 0xFFFFFF
    topic = (word >> 56) & 0xFF
    if size <= HEAD_BYTES or size > RECORD_MAX or topic == 0 or topic > size - HEAD_BYTES:
        return 0
    padded = (size + 7) & ~7
    if at + padded > stop:
        return -1
    return padded if load_int64(base + at + 8) > last else 0


@lean
def sound(base: int, at: int, stop: int, last: int) -> int:
    """Bytes, with padding, of the sound record at ``base + at``; 0: there is none; -1: it may go beyond ``stop``.

    ``last`` is the position of the record before it: positions only go up.
    """
    padded = framed(base, at, stop, last)
    if padded > 0 and record_crc(base + at, padded) != load_int64(base + at) & 0xFFFFFFFF:
        return 0
    return padded


@lean
def resume(base: int, at: int, stop: int, last: int, final: int) -> int:
    """The next offset after ``at`` where a sound record begins, or one that may; ``stop`` where there is none."""
    at += 8
    while at < stop:
        size = sound(base, at, stop, last)
        if size > 0 or (size < 0 and final == 0):
            return at
        at += 8
    return stop


@waiting_kernel
def walk(data: Any, start: int, stop: int, found: Any, index: Any) -> None:
    """Check every record of ``data[start:stop]``, a whole segment; skip what is none and count it; fill ``index``."""
    base = data.ctypes.data
    at = start
    found[W_END] = start
    due = 0
    while at < stop:
        size = sound(base, at, stop, found[W_LAST])
        if size <= 0:
            after = resume(base, at, stop, found[W_LAST], 1)
            if after == stop:
                return
            found[W_HOLES] += 1
            found[W_SKIPPED] += after - at
            at = after
            continue
        position, stamp_ns, epoch = load_int64(base + at + 8), load_int64(base + at + 16), load_int64(base + at + 24)
        if found[W_RECORDS] == 0:
            found[W_FIRST] = position
            found[W_FIRST_NS] = stamp_ns
            found[W_FIRST_EPOCH] = epoch
        found[W_LAST] = position
        found[W_LAST_NS] = stamp_ns
        found[W_LAST_EPOCH] = epoch
        found[W_RECORDS] += 1
        if at >= due and found[W_INDEXED] < index.shape[0]:
            index[found[W_INDEXED], 0] = position
            index[found[W_INDEXED], 1] = stamp_ns
            index[found[W_INDEXED], 2] = at
            found[W_INDEXED] += 1
            due = at + INDEX_EVERY
        at += size
        found[W_END] = at


@lean
def hashed(word: int) -> int:
    """Where a filter says whether a prefix of eight letters or fewer, moved to the end of a word, may be wanted."""
    return (word * _GOLDEN >> 64 - FILTER_BITS) & ((1 << FILTER_BITS) - 1)


@lean
def wanted(topic: int, size: int, prefixes: Any, lengths: Any, start: int, stop: int, filters: Any) -> bool:
    """Whether a topic begins with one of ``prefixes[start:stop]``; at least eight bytes can be read there.

    A reader of many lets most topics go by: ``filters``, one for each length that prefixes have (its shift, then a flag
    by `hashed`), says so without looking at each; none: look.
    """
    first = load_int64(topic)
    likely = filters.shape[0] == 0
    for f in range(filters.shape[0]):
        if filters[f, 1 + hashed(first << filters[f, 0])] != 0:
            likely = True
    if not likely:
        return False
    for p in range(start, stop):
        length = lengths[p]
        if length == 0:
            return True
        if length > size:
            continue
        shift = 64 - 8 * min(length, 8)
        if (first ^ load_int64(prefixes.ctypes.data + p * PREFIX_MAX)) << shift != 0:
            continue
        if length <= 8 or memcmp(topic + 8, prefixes.ctypes.data + p * PREFIX_MAX + 8, length - 8) == 0:
            return True
    return False


@waiting_kernel
def select(
    data: Any, start: int, stop: int, final: int, out: Any, way: Any, first: int, last: int, from_ns: int, prefixes:
    Any, lengths: Any, filters: Any,
) -> None:  # fmt: skip
    """Copy the wanted records of ``data[start:stop]`` behind ``out[:way[S_OUT]]``, until the data end or ``out`` is
    full; ``way[S_RESUME]`` says where to go on.

    Wanted: positions from ``first`` to ``last``, from the first record that is not older than ``from_ns`` on, with a
    topic that begins with one of ``prefixes`` (`wanted`). ``final`` is 1 where the segment ends with the data: what is
    cut off there is no record. What fails its CRC is skipped and counted.
    """
    base = data.ctypes.data
    to = out.ctypes.data
    at = start
    while at < stop:
        size = sound(base, at, stop, way[S_SEEN])
        if size < 0 and final == 0:
            break
        if size <= 0:
            at = resume(base, at, stop, way[S_SEEN], final)
            way[S_HOLES] += 1
            continue
        position = load_int64(base + at + 8)
        if position > last:
            way[S_DONE] = 1
            break
        if way[S_STARTED] == 0 and load_int64(base + at + 16) >= from_ns:
            way[S_STARTED] = 1
        topic = (load_int64(base + at) >> 56) & 0xFF
        begun = position >= first and way[S_STARTED] == 1
        if begun and wanted(base + at + HEAD_BYTES, topic, prefixes, lengths, 0, lengths.shape[0], filters):
            if way[S_OUT] + size > out.size:
                break
            memcpy(to + way[S_OUT], base + at, size)
            register = way[S_CRC] ^ 0xFFFFFFFF
            for word in range(0, size, 8):
                register = crc_step(register, load_int64(base + at + word))
            way[S_CRC] = register ^ 0xFFFFFFFF
            way[S_OUT] += size
            if way[S_COUNT] == 0:
                way[S_FIRST] = position
            way[S_LAST] = position
            way[S_EPOCH] = load_int64(base + at + 24)
            way[S_COUNT] += 1
        way[S_SEEN] = position
        at += size
    way[S_RESUME] = at


@waiting_kernel
def sync(address: int, length: int) -> int:
    """Write ``length`` bytes of mapped memory to the disk and wait for it; return 0 or the errno."""
    begin = address & ~(PAGE - 1)
    return errno() if msync(begin, address + length - begin, MS_SYNC) != 0 else 0


@waiting_kernel
def populate(address: int, length: int) -> int:
    """Have the pages at ``address`` (page-aligned) ready for writing; return 0 or the errno.

    A kernel before 5.14 does not know how to: then the writer meets each page first, as it always may.
    """
    code = errno() if madvise(address, length, MADV_POPULATE_WRITE) != 0 else 0
    return 0 if code == EINVAL else code


def warm_up() -> None:
    """Compile or load the kernels with the array types of the live path."""
    data, index = np.zeros(2 * PAGE, np.uint8), np.zeros((1, 3), np.int64)
    prefixes, lengths = np.zeros((1, PREFIX_MAX), np.uint8), np.zeros(1, np.int64)
    crc32c(data, 0, 8, 0)
    crc32c_by_table(data, 0, 8, 0)
    append_all(np.zeros(J_WIDTH, np.int64), data, np.zeros((0, 2), np.int64), 0, 0, 0, 0)
    walk(data, 0, 0, np.zeros(W_WIDTH, np.int64), index)
    select(data, 0, 0, 1, data, np.zeros(S_WIDTH, np.int64), 0, 0, 0, prefixes, lengths, prefixes[:0].view(np.int64))
    sync(data.ctypes.data, 0)
    populate(0, 0)
