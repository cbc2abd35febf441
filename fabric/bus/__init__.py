"""Inbox and Outbox: the only module that owns ZeroMQ sockets, their options and bounds.

An `Outbox` is one XPUB socket, the ROUTER beside it (served by a thread of its own), the sequence numbers, the
last row of each topic, and the log to which each message goes first. An `Inbox` is one SUB socket for each
publisher, with a monitor and a DEALER to the ROUTER beside it: a link that must be rebuilt disturbs no other. A
`LogReader` asks such ROUTERs for parts of the logs.

What a reader can rely on: a gap is filled from the publisher's log before anything later is given; where there is
no log, or not any more, every loss is counted (sequence numbers of each topic; head counts in each heartbeat show
losses at the very end of a stream); a publisher that is silent, lost or restarted is told as a LINK row in the
order in which it happened; after a join, a restart and a gap the last values are asked for, and overtake nothing
newer.

A link whose gap is being filled is held: its live messages wait in its socket, up to `limits.queue_max`, and what is
too much even then is the next gap. After an outage of the link only what is never repeated (trades, alerts) is caught
up from the log: states that were true meanwhile would look like live ones, and the last values say how things stand.

Dead peers: a reader hears each publisher once a second at least, and rebuilds the socket of one that is silent
for `limits.stale_after_ns`, which also throws away what an old connection would deliver late; a reader that was
itself away for so long (stopped, blocked), or is so far behind its publisher (too slow), does the same: it never takes
an old price for a live one. The kernel gives up what is not acknowledged within 1.5 s.
ZMTP's own heartbeats would do this too, but in libzmq 4.3.5 they abort the process: when the timer of a connection
fires whose receive queue is full, or was when the peer went (zeromq/libzmq#3937, #4841; seen here with a slow reader).
Reconnects back off to 1 s; frames are bounded both ways; a socket that libzmq has given up for good (oversized frame,
refused by ZAP) is built anew.
"""

from fabric.bus.inbox import EVENTS_MAX, Inbox
from fabric.bus.log_reader import LogReader
from fabric.bus.outbox import Outbox
from fabric.bus.sockets import local_endpoint

__all__ = ["EVENTS_MAX", "Inbox", "LogReader", "Outbox", "local_endpoint"]
