"""What a reader knows of one publisher: its sockets, what was heard, what is missing and asked for (data only)."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import zmq

from fabric.topology import Source


@dataclass
class Repair:
    """A part of a publisher's log that a held link waits for."""

    next: int  # position from which on the rest is to come
    last: int
    topics: tuple[str, ...]
    epoch: int  # in which `next` was seen
    beat: dict[str, Any] | None  # a heartbeat that waits for it
    began_ns: int
    request: int = 0
    asked_ns: int = 0
    tries: int = 0
    all_here: bool = False
    here: deque[tuple[npt.NDArray[np.uint8], int, int]] = field(default_factory=deque)  # records: bytes, end, done


@dataclass
class Link:
    """One publisher as a reader sees it."""

    source: Source
    index: int
    socket: zmq.Socket[bytes] = field(init=False)
    monitor: zmq.Socket[bytes] = field(init=False)
    dealer: zmq.Socket[bytes] = field(init=False)
    heard_ns: int = 0  # monotonic time of the last message
    beat_ns: int = 0  # the publisher's time of its last heartbeat
    messages: int = 0  # as counted when `heard_ns` was set
    rebuild_ns: int = 0  # when to give the socket up, 0 while libzmq is at work on it
    request: int = 0  # number of the last snapshot request
    asked_ns: int = 0  # when it was sent, 0 when none is open
    wants_snapshot: bool = False
    whole: bool = False  # a snapshot has come whole since the link was made
    repair: Repair | None = None
    repairs: int = 0
    resumed: bool = False  # this reader goes on where one before it left off: nothing may be left out
    even: int = 0  # head O of the last heartbeat whose heads were those that had come, or were told as lost
    asked_head_ns: int = 0
    level_ns: int = 0  # the publisher's time at which nothing was missing
    lag: int = 0  # messages that it had published and this reader had not taken when it was last asked
    lag_ns: int = 0
    taken: int = 0  # messages of this epoch that it had taken by then
    lag_told: int = 0  # 0, LAG_WARN or LAG_ALARM: what has been logged of it
    position: int = 0  # head O of its last heartbeat
    heads: dict[tuple[int, int], int] = field(default_factory=dict)  # head minus advance at the first heartbeat
    based: bool = False  # that has been: what it did not tell of had sent nothing
    behind: dict[tuple[int, int], int] = field(default_factory=dict)
    counters: dict[str, Any] = field(default_factory=dict)  # what its heartbeat last said
    rebuilds: int = 0
    late: bool = False  # whether `lag_ns` was too much when the publisher was asked last
    snapshots: int = 0  # rows that came from snapshots
    books_from: tuple[int, int, int, int, int] | None = None  # epoch, position, `snapshots`, accepted, lost by then
    refused: str = ""  # why libzmq last gave the connection up
    owed: int = 0  # where its log is read in place: head O of the heartbeat before the last
    in_place: bool = False  # its rows come from its log in memory (`fabric.bus.tail`), not over the socket
    unlogged: int | None = None  # epoch in which its log did not hold what it published: the socket brings all of it

    def forget_heads(self) -> None:
        """Compare anew from the next heartbeat on."""
        self.heads.clear()
        self.based = False

    def base(self, at: tuple[int, int], ahead: int) -> int:
        """Of ``ahead``, what was so when the comparison began."""
        return self.heads.get(at, 0 if self.based else ahead)
