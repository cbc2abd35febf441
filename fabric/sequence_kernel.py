"""Number a stream; see its gaps, repeats and restarts (pure, compiled).

Each topic counts from 1 in each epoch of its publisher. A reader keeps the last number of each topic and
judges what comes: next, repeated, or after a gap. A publisher that comes back has a larger epoch: all its
numbers start anew. A smaller epoch is a publisher that should be dead: fenced.
"""

from typing import Any

import numpy as np

from fabric.compiled import lean, lean_kernel

# A link's row of state, int64[links, STATE_WIDTH].
EPOCH = 0
UP = 1  # 1 from the first message to the moment it is silent or lost
CONNECTED = 2
MESSAGES = 3  # frames pairs received, good or bad
ACCEPTED = 4
LOST = 5  # sequence numbers that never came
GAPS = 6
DUPLICATES = 7
REFRESHED = 8  # the publisher's own re-publication of silent topics
FENCED = 9  # from an older epoch
RESTARTS = 10  # epochs seen after the first
MISSED = 11  # numbers of a new epoch, sent before this reader had joined it, that no log can bring
OVERLAP = 12  # snapshot values that the live stream had overtaken
BAD = 13
POSITION = 14  # last O
BYTES = 15
FUTURE = 16  # event stamps more than five seconds ahead of this machine
DRAINED = 17  # 1 when nothing was left to read on the link at its last turn
REPAIRING = 18  # 1 while a snapshot is to fill what was lost at the end of a stream
LOGGED = 19  # 1 when the publisher keeps a log from which gaps may be filled
JOINED = 20  # 1 from the greeting on: the subscriptions are in force
HELD = 21  # 1 while what waits on the link stays there, until the log has brought what comes before it
GAP_FIRST = 22  # positions in the log that hold what a held link lacks
GAP_LAST = 23
REPAIRED = 24  # messages that came from the log
STAMP = 25  # when the last message was published, by the publisher's clock
BEHIND = 26  # 1 while the publisher says that it is too far behind what it reads itself: its values come, and are stale
STATE_WIDTH = 28

NEXT = 0
REPEATED = 1
GAP = 2
OLD_EPOCH = 3
NEW_EPOCH = 4

VENUE_STRIDE = 27
"""Slots of one symbol in a channel with a value per venue: none, then A to Z."""
LETTERS = 128
"""Heads are kept by the first byte of the symbol (ASCII)."""


@lean
def slot_of(layout: Any, link: int, kind: int, symbol: int, venue: int) -> int:
    """Index of a topic in the tables of its link; ``layout[link, kind]`` is (first slot or -1, slots a symbol)."""
    first = layout[link, kind, 0]
    if first < 0:
        return -1
    if layout[link, kind, 1] == 1:
        return first + symbol
    return first + symbol * VENUE_STRIDE + (venue - 64 if venue > 0 else 0)


@lean_kernel
def judge_epoch(state: Any, link: int, epoch: int) -> int:
    """Return NEXT, OLD_EPOCH (counted) or NEW_EPOCH for a message of ``epoch``."""
    known = state[link, EPOCH]
    if epoch == known:
        return NEXT
    if epoch < known:
        state[link, FENCED] += 1
        return OLD_EPOCH
    return NEW_EPOCH


@lean_kernel
def start_epoch(state: Any, layout: Any, last: Any, advance: Any, link: int, epoch: int, symbols: int) -> None:
    """Forget all numbers of a link: its publisher has started anew."""
    if state[link, EPOCH] != 0:
        state[link, RESTARTS] += 1
    state[link, EPOCH] = epoch
    state[link, BEHIND] = 0
    state[link, POSITION] = 0  # a power cut may have taken the end of its log: then positions come again
    for kind in range(layout.shape[1]):
        first = layout[link, kind, 0]
        if first >= 0:
            for slot in range(first, first + symbols * layout[link, kind, 1]):
                last[slot] = 0
        for letter in range(LETTERS):
            advance[link, kind, letter] = 0


@lean_kernel
def doubt(layout: Any, last: Any, link: int, symbols: int) -> None:
    """A publisher is lost or silent: its values are stale until heard again, with the same number or a later one."""
    for kind in range(layout.shape[1]):
        first = layout[link, kind, 0]
        if first >= 0:
            for slot in range(first, first + symbols * layout[link, kind, 1]):
                last[slot] = -abs(last[slot])


@lean
def judge(
    state: Any, last: Any, arrival: Any, advance: Any, link: int, kind: int, letter: int, slot: int, seq: int,
    now_ns: int, refresh_ns: int,
) -> int:  # fmt: skip
    """Return NEXT, GAP or REPEATED for number ``seq`` of the topic at ``slot`` and count it.

    After `doubt` the last number itself is NEXT, once: its value is the first that is fresh again.

    A repeat that comes a quarter of the refresh time or more after the topic's last arrival is the publisher's
    refresh; a quicker one is a duplicate. ``now_ns`` is monotonic.
    """
    known = last[slot]
    if known < 0:
        known = -known
        if seq == known:
            last[slot] = seq
            arrival[slot] = now_ns
            return NEXT
    if seq <= known:
        if seq == known and now_ns - arrival[slot] >= refresh_ns // 4:
            state[link, REFRESHED] += 1
        else:
            state[link, DUPLICATES] += 1
        arrival[slot] = now_ns
        return REPEATED
    last[slot] = seq
    arrival[slot] = now_ns
    if known == 0:
        advance[link, kind, letter] += 1
        if state[link, RESTARTS] > 0 and state[link, LOGGED] == 0:
            state[link, MISSED] += seq - 1
        return NEXT
    advance[link, kind, letter] += seq - known
    if seq == known + 1:
        return NEXT
    state[link, LOST] += seq - known - 1
    state[link, GAPS] += 1
    return GAP


def warm_up() -> None:
    """Compile or load what the inbox calls for a heartbeat."""
    state, layout = np.zeros((1, STATE_WIDTH), np.int64), np.full((1, 1, 2), -1, np.int64)
    judge_epoch(state, 0, 0)
    doubt(layout, np.zeros(0, np.int64), 0, 0)
    start_epoch(state, layout, np.zeros(0, np.int64), np.zeros((1, 1, LETTERS), np.int64), 0, 1, 0)
