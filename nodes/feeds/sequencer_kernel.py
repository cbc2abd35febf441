"""Blocks of all lines of a feed -> blocks in the order of their streams, each message once, compiled (pure).

A stream is one sequence of numbers. Its lines (A, B, and the answers to our own requests) carry the same messages in
other packets, so arbitration is by message: what is next goes out at once, a block that overlaps what was had goes
out with `skip`, what was had is dropped. A block behind a hole is copied and held until the hole is filled or given
up: after `WAIT_NS` without progress, when more than `WINDOW` blocks wait, or when no room is left to hold them.
Then a GAP goes out and the stream goes on.

What one packet says is not believed when it would void the stream: an unknown session, numbers that go back, or a
leap beyond `LEAP` must be confirmed by a second packet. A corrupt packet so costs itself at most.

Numbers begin anew (RESTART) under another session, or, as IEX does (`RENUMBERS`), under the same one: numbers behind,
sent later than all before by `RESTART_AFTER_NS`. A transport without sessions restarts when its numbers are far
behind, or have come from behind alone for `QUIET_NS`. Packets of an ended session are late, never new.

Bytes of the blocks that go out lie either in the packets' buffer or in `Held.data`; one call gives only one kind.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fabric.compiled import lean, lean_kernel
from fabric.records import NULL
from nodes.feeds.wire_kernel import BLOCK, DATA, GAP, RESTART

FIRST_NUMBER = 1
"""What every exchange's numbers begin with."""
ENDED_MAX = 8
"""Ended sessions, and given-up holes, that a stream remembers."""
LEAP = 16_384
"""Messages: numbers further ahead than this need a second packet that says so."""
FAR_BEHIND = 65_536
"""Messages: further behind than any late copy."""
RESTART_AFTER_NS = 50_000_000
"""Sent this much later than anything before, yet with lower numbers: a restart and not a late copy."""
QUIET_NS = 1_000_000_000
FOREVER_NS = 1 << 62
"""``now_ns`` of a call behind which nothing comes: no hole is waited for any longer."""
BY_RECEIPT = -1
"""``now_ns`` of a recording: the time is when each block was received."""
OUT_MIN = 8
"""The least room for blocks that go out."""

# Columns of `settings`.
WAIT_NS = 0  # without progress, after which a hole is given up
WINDOW = 1  # blocks of a stream that may wait behind a hole; 0: as many as there is room for
ASK_AFTER_NS = 2  # a hole younger than this is not asked for: another line may fill it
ASK_EVERY_NS = 3
LINES = 4  # lines below this number are the exchange's, from there on answers to requests
KEEP_WAITING = 5  # 1: without room a block is dropped, to be asked for again; 0: the hole is given up
RENUMBERS = 6  # 1: numbers begin anew under the same session, told by the time of sending
LAST_NUMBER = 7  # after which numbers go on with FIRST_NUMBER; 0: they never do
N_SETTINGS = 8

# Columns of `counters`: messages, where nothing else is said.
DELIVERED = 0
DUPLICATES = 1  # had before, or held already
FILLED_LINE = 2  # filled a hole that another line, or this one's later packets, had shown
FILLED_REQUEST = 3  # ... brought by an answer to a request
LATE = 4  # of a hole that had been given up, or of a session that had ended
LOST = 5  # inside the holes that were given up
GAPS = 6  # holes that were given up
HELD = 7  # blocks that had to wait
HOLD_FULL = 8  # blocks for which there was no room
RESTARTS = 9
DISTRUSTED = 10  # packets that said something which no other confirmed
STREAMS_FULL = 11  # blocks of more streams than the table holds
N_COUNTERS = 12

# Columns of `by_line`, messages.
LINE_FIRST = 0  # brought first
LINE_AGAIN = 1  # had before
LINE_WIDTH = 2

# Columns of `work`.
WAITING = 0  # streams with a hole
RELEASING = 1  # row of the stream whose held blocks are to go out next; -1: none
FREE = 2  # first free slot, -1: none
SUSPECTS = 3  # streams with a suspect
N_WORK = 4

STREAM = np.dtype(
    [
        ("stream", "<i8"),  # NULL where the row is free
        ("session", "<i8"),
        ("expected", "<i8"),  # number of the next message
        ("told", "<i8"),  # numbers below this exist
        ("head", "<i8"),  # slot of its first held block; -1: none
        ("tail", "<i8"),
        ("held", "<i8"),  # how many
        ("waiting", "<i8"),  # 1: it has a hole
        ("told_ns", "<i8"),  # a heartbeat last told of numbers that had not come
        ("moved_ns", "<i8"),  # a message last went out that had not been held
        ("asked_ns", "<i8"),  # last asked for
        ("progress_ns", "<i8"),  # a message last went out, held or not
        ("sent_ns", "<i8"),  # latest time of sending seen
        ("recv_ns", "<i8"),
        ("void_ns", "<i8"),  # what was sent up to then is of a former numbering; 0: unknown
        ("suspect", "<i8"),  # slot of a block that waits for confirmation; -1: none
        ("flush", "<i8"),  # FLUSHING: its holes are given up, before numbers begin anew; FLUSHED: now they do
        ("ended_next", "<i8"),
        ("lost_next", "<i8"),
        ("lost_stop", "<i8"),  # all holes given up are below this
    ]
)

RANGE = np.dtype([("stream", "<i8"), ("session", "<i8"), ("first", "<i8"), ("count", "<i8")])
"""Numbers that are missing."""

FLUSHING = 1
FLUSHED = 2

# Where the bytes of blocks that go out lie.
ANYWHERE = -1
IN_PACKETS = 0
IN_HOLD = 1

_NORMAL = 0
_LATE = 1
_NEW_SESSION = 2
_BACK = 3
_LEAP = 4


class Held(NamedTuple):
    """Blocks that wait, a slot each."""

    data: npt.NDArray[np.uint8]  # slot i: data[i * slot_bytes:(i + 1) * slot_bytes]
    slots: npt.NDArray[np.void]  # BLOCK, `start` and `stop` pointing into `data`
    since_ns: npt.NDArray[np.int64]  # held since then
    next: npt.NDArray[np.int64]  # the next slot of the same stream, or the next free one; -1: none


class State(NamedTuple):
    """What is remembered between calls."""

    streams: npt.NDArray[np.void]  # STREAM, a hash table by stream
    ended: npt.NDArray[np.int64]  # [streams, ENDED_MAX] ids of ended sessions, NULL where none
    lost: npt.NDArray[np.int64]  # [streams, ENDED_MAX, 2] holes given up: first, stop
    held: Held
    work: npt.NDArray[np.int64]  # [N_WORK]
    counters: npt.NDArray[np.int64]  # [N_COUNTERS]
    by_line: npt.NDArray[np.int64]  # [lines, LINE_WIDTH]


def new_state(streams_max: int, slots_max: int, slot_bytes: int, lines: int) -> State:
    """Nothing seen yet. ``streams_max`` must be a power of two; memory is touched only where blocks are held."""
    assert streams_max & (streams_max - 1) == 0
    streams = np.zeros(streams_max, STREAM)
    streams["stream"] = NULL
    following = np.arange(1, slots_max + 1)
    following[-1] = -1
    work = np.zeros(N_WORK, np.int64)
    work[RELEASING] = -1
    return State(
        streams=streams,
        ended=np.full((streams_max, ENDED_MAX), NULL, np.int64),
        lost=np.zeros((streams_max, ENDED_MAX, 2), np.int64),
        held=Held(
            np.empty(slots_max * slot_bytes, np.uint8),
            np.zeros(slots_max, BLOCK),
            np.zeros(slots_max, np.int64),
            following,
        ),
        work=work,
        counters=np.zeros(N_COUNTERS, np.int64),
        by_line=np.zeros((lines, LINE_WIDTH), np.int64),
    )


@lean
def counted_on(number: int, expected: int, last: int) -> int:
    """An exchange's number as the stream counts it: the nearest to what is next, or else of the same round."""
    ahead = (number - expected) % last
    if ahead <= LEAP:
        return expected + ahead
    if last - ahead <= min(FAR_BEHIND, expected - FIRST_NUMBER):
        return expected - (last - ahead)
    return expected - FIRST_NUMBER - (expected - FIRST_NUMBER) % last + own_number(number, last)


@lean
def own_number(number: int, last: int) -> int:
    """The exchange's number of a message, from the stream's count."""
    return (number - FIRST_NUMBER) % last + FIRST_NUMBER if last > 0 else number


@lean
def put_mark(out: Any, made: int, settings: Any, row: Any, kind: int, first: int, count: int) -> None:
    """Write a GAP or RESTART of a stream."""
    mark = out[made]
    mark["stream"] = row["stream"]
    mark["session"] = row["session"]
    mark["kind"] = kind
    mark["first"] = own_number(first, settings[LAST_NUMBER])
    mark["count"] = count
    mark["skip"] = 0
    mark["start"] = 0
    mark["stop"] = 0
    mark["sent_ns"] = row["sent_ns"]
    mark["recv_ns"] = row["recv_ns"]
    mark["line"] = -1


@lean
def find(streams: Any, block: Any) -> int:
    """The row of the block's stream, taking a free one for a new stream; -1 when there is none."""
    mask = streams.size - 1
    at = (block["stream"] + (block["stream"] >> 16) * 37) & mask
    for _ in range(streams.size):
        row = streams[at]
        if row["stream"] == block["stream"]:
            return at
        if row["stream"] == NULL:
            row["stream"] = block["stream"]
            row["session"] = block["session"]
            row["expected"] = block["first"]
            row["told"] = block["first"]
            row["head"] = -1
            row["tail"] = -1
            row["told_ns"] = NULL
            row["moved_ns"] = NULL
            row["asked_ns"] = NULL
            row["progress_ns"] = NULL
            row["suspect"] = -1
            return at
        at = (at + 1) & mask
    return -1


@lean
def take_slot(state: Any, buffer: Any, block: Any, now_ns: int) -> int:
    """Copy a block and its bytes into a free slot; -1 when there is none or the block is longer than one."""
    slots = state.held.slots
    slot_bytes = state.held.data.size // slots.size
    slot = state.work[FREE]
    size = block["stop"] - block["start"]
    if slot < 0 or size > slot_bytes:
        state.counters[HOLD_FULL] += 1
        return -1
    state.work[FREE] = state.held.next[slot]
    state.held.next[slot] = -1
    state.held.since_ns[slot] = now_ns
    slots[slot] = block
    begin = slot * slot_bytes
    slots[slot]["start"] = begin
    slots[slot]["stop"] = begin + size
    at = block["start"]
    for i in range(size):
        state.held.data[begin + i] = buffer[at + i]
    return slot


@lean
def free_slot(state: Any, slot: int) -> None:
    """Give a slot back; its bytes stay until it is taken again, which no call does after one went out."""
    state.held.next[slot] = state.work[FREE]
    state.work[FREE] = slot


@lean
def link(state: Any, row: Any, slot: int) -> bool:
    """Put a slot in its place among the stream's held blocks; False when one of them has all its messages."""
    slots = state.held.slots
    first = slots[slot]["first"]
    stop = first + slots[slot]["count"]
    before = -1
    after = row["head"]
    tail = row["tail"]
    if tail >= 0 and slots[tail]["first"] <= first:
        before = tail
        after = np.int64(-1)
    while after >= 0 and slots[after]["first"] <= first:
        before = after
        after = state.held.next[after]
    if before >= 0 and slots[before]["first"] + slots[before]["count"] >= stop:
        return False
    state.held.next[slot] = after
    if before < 0:
        row["head"] = slot
    else:
        state.held.next[before] = slot
    if after < 0:
        row["tail"] = slot
    row["held"] += 1
    return True


@lean
def hole(row: Any, slots: Any) -> Any:
    """Where the stream's next hole ends: at its first held block, or at the highest number that it has told of."""
    return slots[row["head"]]["first"] if row["head"] >= 0 else row["told"]


@lean
def watch(state: Any, row: Any) -> None:
    """Note whether the stream has a hole, after anything about it has changed."""
    waiting = 1 if row["told"] > row["expected"] or row["head"] >= 0 else 0
    if waiting > row["waiting"]:
        row["asked_ns"] = NULL
    state.work[WAITING] += waiting - row["waiting"]
    row["waiting"] = waiting


@lean
def since(held: Any, row: Any) -> Any:
    """How long the stream has waited for its next hole: since that was shown, or messages last came in between."""
    return max(row["moved_ns"], held.since_ns[row["head"]] if row["head"] >= 0 else row["told_ns"])


@lean
def give_up(state: Any, settings: Any, k: int, stop: int, out: Any, made: int) -> int:
    """Write the GAP of what is missing below ``stop``, if anything, and let what is held behind it go out."""
    row = state.streams[k]
    first = row["expected"]
    if stop > first:
        put_mark(out, made, settings, row, GAP, first, stop - first)
        made += 1
        state.counters[GAPS] += 1
        state.counters[LOST] += stop - first
        at = row["lost_next"]
        state.lost[k, at, 0] = first
        state.lost[k, at, 1] = stop
        row["lost_next"] = (at + 1) % ENDED_MAX
        row["lost_stop"] = stop
        row["expected"] = stop
        row["told"] = max(row["told"], stop)
    watch(state, row)
    state.work[RELEASING] = k
    return made


@lean
def count_repeated(state: Any, k: int, line: int, first: int, stop: int) -> None:
    """Count messages that are not wanted (any more): late where they had been given up, else duplicates."""
    late = np.int64(0)
    if first < state.streams[k]["lost_stop"]:
        for i in range(ENDED_MAX):
            late += max(np.int64(0), min(stop, state.lost[k, i, 1]) - max(first, state.lost[k, i, 0]))
    state.counters[LATE] += late
    state.counters[DUPLICATES] += stop - first - late
    state.by_line[line, LINE_AGAIN] += stop - first


@lean
def deliver(state: Any, settings: Any, k: int, block: Any, waited: bool, now_ns: int, out: Any, made: int) -> None:
    """Send a block out whose first message is not ahead and whose last is new."""
    row = state.streams[k]
    expected = row["expected"]
    stop = block["first"] + block["count"]
    skip = expected - block["first"]
    line = block["line"]
    out[made] = block
    out[made]["first"] = own_number(block["first"], settings[LAST_NUMBER])
    out[made]["skip"] = skip
    if skip > 0:
        count_repeated(state, k, line, block["first"], expected)
    state.counters[DELIVERED] += stop - expected
    state.by_line[line, LINE_FIRST] += stop - expected
    if not waited:
        row["moved_ns"] = now_ns
    if row["waiting"] == 1 and not waited:
        filled = min(stop, hole(row, state.held.slots)) - expected
        if filled > 0:
            state.counters[FILLED_LINE if line < settings[LINES] else FILLED_REQUEST] += filled
    row["expected"] = stop
    row["told"] = max(row["told"], stop)
    row["progress_ns"] = now_ns


@lean
def release(state: Any, settings: Any, now_ns: int, out: Any, made: int) -> int:
    """Send out what the stream that is being released holds without a hole before it, as far as there is room."""
    k = state.work[RELEASING]
    row = state.streams[k]
    slots = state.held.slots
    while made < out.size:
        slot = row["head"]
        if slot >= 0 and slots[slot]["first"] <= row["expected"]:
            block = slots[slot]
            stop = block["first"] + block["count"]
            row["head"] = state.held.next[slot]
            row["held"] -= 1
            if row["head"] < 0:
                row["tail"] = -1
            if stop > row["expected"]:
                deliver(state, settings, k, block, True, now_ns, out, made)
                made += 1
            else:
                count_repeated(state, k, block["line"], block["first"], stop)
            free_slot(state, slot)
        elif row["flush"] == FLUSHING and hole(row, slots) > row["expected"]:
            made = give_up(state, settings, k, hole(row, slots), out, made)
        else:
            if row["flush"] == FLUSHING:
                row["flush"] = FLUSHED
            state.work[RELEASING] = -1
            break
    watch(state, row)
    return made


@lean
def verdict(state: Any, settings: Any, k: int, block: Any, now_ns: int) -> int:
    """What a block means for its stream's numbering."""
    row = state.streams[k]
    if block["session"] != row["session"]:
        for i in range(ENDED_MAX):
            if state.ended[k, i] == block["session"]:
                return _LATE
        return _NEW_SESSION
    if block["line"] >= settings[LINES]:
        return _NORMAL  # an answer repeats the past
    sent_ns = block["sent_ns"]
    behind = row["expected"] - block["first"]
    if sent_ns > 0 and settings[RENUMBERS] != 0:
        if sent_ns <= row["void_ns"]:
            return _LATE
        if behind > 0 and (behind > FAR_BEHIND or sent_ns > row["sent_ns"] + RESTART_AFTER_NS):
            return _BACK
    elif row["session"] == 0 and behind > 0:
        quiet = row["waiting"] == 0 and row["progress_ns"] != NULL and now_ns - row["progress_ns"] > QUIET_NS
        if behind > FAR_BEHIND or quiet:
            return _BACK
    if block["first"] > row["told"] + LEAP:
        return _LEAP
    return _NORMAL


@lean
def confirmed(state: Any, row: Any, block: Any, what: int) -> bool:
    """Whether the block says the same as the one that waits for confirmation."""
    if row["suspect"] < 0:
        return False
    suspect = state.held.slots[row["suspect"]]
    if suspect["session"] != block["session"]:
        return False
    # After numbers that went back: the two must not be one old packet, sent twice.
    return what == _NEW_SESSION or abs(suspect["first"] - block["first"]) <= LEAP


@lean
def suspect(state: Any, row: Any, buffer: Any, block: Any, now_ns: int) -> None:
    """Keep a block that no other has confirmed yet, in place of an older one."""
    drop_suspect(state, row)
    slot = take_slot(state, buffer, block, now_ns)
    row["suspect"] = slot
    if slot >= 0:
        state.work[SUSPECTS] += 1


@lean
def drop_suspect(state: Any, row: Any) -> None:
    """Forget the block that waits for confirmation: nothing has confirmed it."""
    if row["suspect"] >= 0:
        state.counters[DISTRUSTED] += 1
        free_slot(state, row["suspect"])
        row["suspect"] = -1
        state.work[SUSPECTS] -= 1


@lean
def believe(state: Any, settings: Any, k: int, now_ns: int, out: Any, made: int) -> int:
    """Take what the suspect says as true. Its stream holds nothing any more if its numbers begin anew."""
    row = state.streams[k]
    slots = state.held.slots
    slot = row["suspect"]
    block = slots[slot]
    row["suspect"] = -1
    state.work[SUSPECTS] -= 1
    if block["session"] != row["session"] or block["first"] < row["expected"]:
        if block["session"] != row["session"]:
            state.ended[k, row["ended_next"]] = row["session"]
            row["ended_next"] = (row["ended_next"] + 1) % ENDED_MAX
            row["void_ns"] = 0
        else:  # of the same session: only the time of sending tells the old packets from the new
            row["void_ns"] = row["sent_ns"] if block["sent_ns"] > row["sent_ns"] else 0
        state.counters[RESTARTS] += 1
        for i in range(ENDED_MAX):
            state.lost[k, i, 1] = 0
        row["lost_stop"] = 0
        row["session"] = block["session"]
        row["sent_ns"] = block["sent_ns"]
        row["recv_ns"] = block["recv_ns"]
        row["expected"] = FIRST_NUMBER
        row["told"] = FIRST_NUMBER
        block["first"] = own_number(block["first"], settings[LAST_NUMBER])
        put_mark(out, made, settings, row, RESTART, FIRST_NUMBER, 0)
        made += 1
    if block["kind"] == DATA and block["count"] > 0:
        row["told"] = max(row["told"], block["first"] + block["count"])
        link(state, row, slot)
    else:
        row["told"] = max(row["told"], block["first"])
        row["told_ns"] = now_ns
        free_slot(state, slot)
    row["progress_ns"] = now_ns
    row["moved_ns"] = now_ns
    watch(state, row)
    state.work[RELEASING] = k
    return made


@lean
def accept(state: Any, settings: Any, buffer: Any, block: Any, now_ns: int, out: Any, made: int) -> tuple[int, bool]:
    """Take one block; return the blocks to go out so far, and whether it must be offered again after a release."""
    has_data = block["kind"] == DATA and block["count"] > 0
    if block["first"] < FIRST_NUMBER:  # outside of any sequence
        if has_data:
            out[made] = block
            made += 1
        return made, False
    k = find(state.streams, block)
    if k < 0:
        state.counters[STREAMS_FULL] += 1
        return made, False
    row = state.streams[k]
    if row["flush"] == FLUSHED:
        row["flush"] = 0
        return believe(state, settings, k, now_ns, out, made), True
    if settings[LAST_NUMBER] > 0:
        block["first"] = counted_on(block["first"], row["expected"], settings[LAST_NUMBER])
    what = verdict(state, settings, k, block, now_ns)
    if what == _LATE:
        state.counters[LATE] += block["count"]
        return made, False
    if what != _NORMAL:
        if not confirmed(state, row, block, what):
            suspect(state, row, buffer, block, now_ns)
            return made, False
        if what != _LEAP and row["waiting"] == 1:  # first let out what the old numbering still holds
            row["flush"] = FLUSHING
            state.work[RELEASING] = k
            return made, True
        return believe(state, settings, k, now_ns, out, made), True
    if row["suspect"] >= 0 and state.held.slots[row["suspect"]]["session"] == row["session"]:
        drop_suspect(state, row)

    row["recv_ns"] = block["recv_ns"]
    row["sent_ns"] = max(row["sent_ns"], block["sent_ns"])
    stop = block["first"] + block["count"]
    if not has_data:
        if block["first"] > row["told"]:
            row["told"] = block["first"]
            row["told_ns"] = now_ns
            watch(state, row)
        return made, False
    if stop <= row["expected"]:
        count_repeated(state, k, block["line"], block["first"], stop)
        return made, False
    if block["first"] <= row["expected"]:
        deliver(state, settings, k, block, False, now_ns, out, made)
        if row["waiting"] == 1:
            watch(state, row)
            state.work[RELEASING] = k
        return made + 1, False
    return hold(state, settings, k, buffer, block, now_ns, out, made)


@lean
def hold(
    state: Any, settings: Any, k: int, buffer: Any, block: Any, now_ns: int, out: Any, made: int
) -> tuple[int, bool]:
    """Keep a block that is ahead of its stream; as `accept`."""
    row = state.streams[k]
    slots = state.held.slots
    stop = block["first"] + block["count"]
    full = settings[WINDOW] > 0 and row["held"] >= settings[WINDOW]
    slot = -1 if full else take_slot(state, buffer, block, now_ns)
    if slot >= 0:
        if link(state, row, slot):
            state.counters[HELD] += 1
        else:
            count_repeated(state, k, block["line"], block["first"], stop)
            free_slot(state, slot)
    elif full or settings[KEEP_WAITING] == 0:
        end = slots[row["head"]]["first"] if row["head"] >= 0 else block["first"]
        return give_up(state, settings, k, min(end, block["first"]), out, made), True
    row["told"] = max(row["told"], stop)
    watch(state, row)
    return made, False


@lean
def overdue(state: Any, settings: Any, now_ns: int) -> int:
    """The row of a stream that has waited long enough, -1 when there is none."""
    for k in range(state.streams.size):
        row = state.streams[k]
        if row["stream"] == NULL or row["waiting"] == 0:
            continue
        if now_ns == FOREVER_NS or now_ns - since(state.held, row) >= settings[WAIT_NS]:
            return k
    return -1


@lean_kernel
def sequence(
    buffer: Any, blocks: Any, first: int, now_ns: int, settings: Any, state: Any, out: Any
) -> tuple[int, int, int, int, bool]:
    """Take blocks from number ``first``; return the first not taken, the blocks in ``out``, where their bytes lie,
    how many of them are GAP or RESTART, and whether it is done.

    Until it is done call again with the same blocks and the number returned, each time after ``out`` has been used:
    its bytes are good until then. Numbers that roll over are counted on in ``blocks`` itself. ``now_ns`` is monotonic,
    or `BY_RECEIPT`, or `FOREVER_NS` to give up every hole and believe every suspect.
    """
    marks = -state.counters[GAPS] - state.counters[RESTARTS]
    made = 0
    where = ANYWHERE
    i = first
    done = False
    while not done:
        time_ns: Any = np.int64(now_ns)
        if now_ns == BY_RECEIPT and blocks.size > 0:
            time_ns = blocks[min(i, blocks.size - 1)]["recv_ns"]
        if made + 1 > out.size or (where == IN_HOLD and made > 0):
            break
        if state.work[RELEASING] >= 0:
            if where == IN_PACKETS:
                break
            made = release(state, settings, time_ns, out, made)
            where = IN_HOLD
            continue
        if state.work[WAITING] > 0 and (now_ns == BY_RECEIPT) == (i < blocks.size):
            late = overdue(state, settings, time_ns)
            if late >= 0:
                row = state.streams[late]
                made = give_up(state, settings, late, hole(row, state.held.slots), out, made)
                continue
        if i < blocks.size:
            before = made
            made, again = accept(state, settings, buffer, blocks[i], time_ns, out, made)
            if made > before and out[made - 1]["kind"] == DATA:
                where = IN_PACKETS
            if not again:
                i += 1
        elif now_ns == FOREVER_NS and state.work[SUSPECTS] > 0:
            k = 0
            while state.streams[k]["stream"] == NULL or state.streams[k]["suspect"] < 0:
                k += 1
            made = believe(state, settings, k, time_ns, out, made)
        else:
            done = True
    return i, made, where, marks + state.counters[GAPS] + state.counters[RESTARTS], done


@lean_kernel
def missing(state: Any, settings: Any, now_ns: int, out: Any) -> int:
    """Write the RANGEs to ask for now; return how many. The hole that is given up first comes first in its stream."""
    n = 0
    if state.work[WAITING] == 0:
        return n
    slots = state.held.slots
    last = settings[LAST_NUMBER]
    for k in range(state.streams.size):
        row = state.streams[k]
        if row["stream"] == NULL or row["waiting"] == 0 or now_ns - since(state.held, row) < settings[ASK_AFTER_NS]:
            continue
        if row["asked_ns"] != NULL and now_ns - row["asked_ns"] < settings[ASK_EVERY_NS]:
            continue
        row["asked_ns"] = now_ns
        at = row["expected"]
        slot = row["head"]
        while n < out.size:
            stop = slots[slot]["first"] if slot >= 0 else row["told"]
            while stop > at and n < out.size:
                own = own_number(at, last)
                count = min(stop - at, last + 1 - own) if last > 0 else stop - at
                out[n]["stream"] = row["stream"]
                out[n]["session"] = row["session"]
                out[n]["first"] = own
                out[n]["count"] = count
                n += 1
                at += count
            if slot < 0:
                break
            at = max(at, slots[slot]["first"] + slots[slot]["count"])
            slot = state.held.next[slot]
    return n


def warm_up() -> None:
    """Compile or load the kernels with the live array types; there is no block to take."""
    state = new_state(streams_max=2, slots_max=1, slot_bytes=1, lines=1)
    settings = np.zeros(N_SETTINGS, np.int64)
    blocks = np.zeros(OUT_MIN, BLOCK)
    sequence(np.zeros(1, np.uint8), blocks[:0], 0, 0, settings, state, blocks)
    missing(state, settings, 0, np.zeros(1, RANGE))
