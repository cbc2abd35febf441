"""How a killed processor comes back as if it had only been slow: checkpoints, and the turns behind them taken again.

A checkpoint is all that a turn may change, between two turns: the node's arrays, what inbox and outbox know of each
topic, the symbols, and the position in the order log. It is copied in the loop (some milliseconds), written to a file
of numpy's npz format by a thread, synced and put in the place of the one before. One is due after `CHECKPOINT_ROWS`
rows or `CHECKPOINT_NS`, which bounds what a recovery has to do, and never more often than a hundred times its own cost;
and one when the processor is told to stop.

A recovery restores the checkpoint and takes each turn of the order log behind it again: the same rows, from the logs of
the inputs, at the same times. What comes of them has the positions that it had. What the processor's own log holds of
it is not written again; what it does not hold yet is logged now, under the new epoch. Nothing of it is sent: readers
catch up. Then the inbox goes on behind the last turn: after an outage shorter than `limits.stale_after` all that was
published meanwhile comes from the logs, so nothing is lost and nothing withdrawn; after a longer one it is told as any
outage of all inputs.

Where that is not possible, it is said and nothing is made up. Without a checkpoint of these very kernels and
settings, or where the order log has a hole behind it, the processor begins with nothing, as it does at its first start.
Where the log of an input does not hold a turn any more, or the own log holds more than the turns explain (a power cut),
it goes on from the turn before, as after an outage.
"""

import hashlib
import logging
import os
import threading
import zipfile
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from fabric import order_kernel
from fabric.bus import EVENTS_MAX, Inbox, Outbox
from fabric.bus_kernel import SNAPSHOT
from fabric.clock import MILLISECOND_NS, SECOND_NS, Clock, TurnClock
from fabric.compiled import fingerprint
from fabric.journal import Segment, segments
from fabric.order import Inputs, OrderLog, Turn, folder_of, turns
from fabric.records import Rows
from fabric.symbols import SymbolTable
from fabric.topology import NodeSpec, Topology

log = logging.getLogger(__name__)

CHECKPOINT_ROWS = 20_000
"""Rows between two checkpoints: a fraction of a second of a recovery."""
CHECKPOINT_NS = 60 * SECOND_NS
COST_SHARE = 100
"""Of the time between two checkpoints, copying takes one part in so many at most."""
NAME = "checkpoint.npz"

Arrays = dict[str, npt.NDArray[Any]]


@runtime_checkable
class Lasting(Protocol):
    """A processor that can be recovered. What `step` gives is a function of its arrays, the rows and the times, which
    it may ask of a `TurnClock` only.
    """

    def step(self, batch: Rows, now_ns: int) -> Rows:
        """Take a batch in order of arrival; return what to publish, as a view that is good until the next step."""

    def arrays(self) -> Arrays:
        """All that `step` may change, whole."""

    def used(self, symbols: int) -> Arrays:
        """The same, each from its beginning as far as it can have been touched while there were so many symbols."""


class Recovery:
    """What makes one processor durable: its order log and its checkpoints."""

    def __init__(
        self, node: Lasting, inbox: Inbox, outbox: Outbox, symbols: SymbolTable, turn: TurnClock, clock: Clock,
        *, topology: Topology, spec: NodeSpec, epoch: int,
    ) -> None:  # fmt: skip
        """Opens the order log beside the processor's own log, which there must be; raises UnavailableError."""
        assert spec.publishes is not None
        settings = spec.publishes.journal
        assert settings is not None
        self._node, self._inbox, self._outbox = node, inbox, outbox
        self._symbols, self._turn, self._clock = symbols, turn, clock
        self._stale_after_ns = topology.limits.stale_after_ns
        self._rows_max = topology.limits.batch_max + EVENTS_MAX
        self._folder = folder_of(settings, spec.name)
        self._path = self._folder.parent / NAME
        self._signature = _signature(spec)
        hosts = {other.publishes.name: other.host for other in topology.nodes if other.publishes is not None}
        self._how = [
            order_kernel.BY_LOG
            if source.publisher.journal is not None and hosts.get(source.publisher.name) == spec.host
            else order_kernel.BY_VALUE
            for source in inbox.sources
        ]
        self._order = OrderLog(spec.name, len(inbox.sources), settings, clock, epoch)
        self._rows = 0
        self._copied_ns = 0
        self._due_ns = 0
        self._writer: threading.Thread | None = None
        self._counts = dict.fromkeys(
            ("checkpoints", "checkpoint_bytes", "checkpoint_us", "recovered_turns", "recovered_rows", "recovered_ms"), 0
        )

    def recover(self) -> bool:
        """Bring the processor back, if that is possible; return whether it goes on where it was killed."""
        began_ns = self._clock.monotonic_ns()
        saved = self._load()
        listing = segments(self._folder)
        if saved is None or not self._follows(listing, int(saved["turn"][0])):
            self._path.unlink(missing_ok=True)  # what follows does not go on from there
            self._checkpoint()
            return False
        self._restore(saved)
        last_ns, whole = self._take_again(listing)
        explained = self._outbox.go_on()
        if not explained:
            log.warning("the log holds more than the order log explains, as after a power cut: told as an outage")
        away_ns = self._clock.now_ns() - last_ns
        seamless = whole and explained and away_ns <= self._stale_after_ns
        self._turn.go_on(self._clock)
        self._inbox.go_on(seamless)
        self._due_ns = self._clock.monotonic_ns() + CHECKPOINT_NS
        self._rows = self._counts["recovered_rows"]  # or who is killed often enough would have ever more to take again
        took_ms = (self._clock.monotonic_ns() - began_ns) // MILLISECOND_NS
        self._counts["recovered_ms"] = took_ms
        log.info("recovered in %d ms: %d turns, %d rows behind the checkpoint; away for %d ms%s", took_ms,
                 self._counts["recovered_turns"], self._counts["recovered_rows"], away_ns // MILLISECOND_NS,
                 "" if seamless else ", told as an outage")  # fmt: skip
        return seamless

    def note(self, batch: Rows) -> None:
        """Log the batch of this turn; before it is taken."""
        given = np.array(
            [
                (link, count, order_kernel.BY_SNAPSHOT if whence == SNAPSHOT else self._how[link])
                for link, count, whence in self._inbox.given()
            ],
            np.int64,
        ).reshape(-1, 3)
        self._order.note(
            batch, given, self._symbols, self._turn.now_ns(), self._turn.monotonic_ns(), self._outbox.position
        )
        self._rows += batch.size

    def keep(self) -> None:
        """Make a checkpoint if one is due; behind a turn."""
        if self._rows >= CHECKPOINT_ROWS or (self._rows and self._clock.monotonic_ns() >= self._due_ns):
            writing = self._writer is not None and self._writer.is_alive()
            if not writing and self._clock.monotonic_ns() - self._copied_ns > COST_SHARE * self._cost_ns:
                self._checkpoint()

    def leave(self) -> None:
        """Make a last checkpoint, behind the last turn, so that the next start has nothing to take again."""
        if self._rows:
            if self._writer is not None:
                self._writer.join()
            self._checkpoint()

    def counters(self) -> dict[str, int]:
        """By the names that ``status`` and ``/metrics`` use."""
        return self._counts | self._order.counters()

    def close(self) -> None:
        """Wait for what is being written; seal the order log."""
        if self._writer is not None:
            self._writer.join()
        self._order.close()

    # Checkpoints

    @property
    def _cost_ns(self) -> int:
        return self._counts["checkpoint_us"] * 1_000

    def _checkpoint(self) -> None:
        began_ns = self._clock.monotonic_ns()
        count = len(self._symbols)
        place = [self._order.after, self._turn.now_ns(), self._turn.monotonic_ns()]
        saved: Arrays = {
            "signature": np.frombuffer(self._signature, np.uint8),
            "turn": np.array(place, np.int64),
            "symbols": self._symbols.arrays.names[:count].copy(),
        }
        for owner, memory in (
            ("node", self._node.used(count)), ("inbox", self._inbox.memory()), ("outbox", self._outbox.memory())
        ):  # fmt: skip
            saved |= {f"{owner}.{name}": np.array(array) for name, array in memory.items()}
        self._copied_ns = self._clock.monotonic_ns()
        self._due_ns = self._copied_ns + CHECKPOINT_NS
        self._rows = 0
        self._counts["checkpoint_us"] = (self._copied_ns - began_ns) // 1_000
        self._counts["checkpoint_bytes"] = sum(array.nbytes for array in saved.values())
        self._writer = threading.Thread(target=self._write, args=(saved,), name="checkpoint", daemon=True)
        self._writer.start()

    def _write(self, saved: Arrays) -> None:
        fresh = self._path.with_suffix(".new")
        try:
            with fresh.open("wb") as file:
                np.savez(file, allow_pickle=False, **saved)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self._path)
            self._counts["checkpoints"] += 1
        except OSError as error:
            log.error("%s: no checkpoint: %s; the one before stays", self._path, error.strerror)
            with suppress(OSError):
                fresh.unlink()

    def _load(self) -> Arrays | None:
        """The last checkpoint; None where there is none that this build can go on from."""
        try:
            with np.load(self._path, allow_pickle=False) as file:
                if file["signature"].tobytes() != self._signature:
                    log.info("the checkpoint is of another build or topology: beginning with nothing")
                    return None
                return {name: file[name] for name in file.files}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            log.warning("%s: cannot be read (%s): beginning with nothing", self._path, error)
            return None

    # Recovery

    def _follows(self, listing: list[Segment], after: int) -> bool:
        """Whether the order log goes on from the turn at ``after``, where it goes on at all."""
        last = max((segment.last for segment in listing), default=0)
        holes = any(segment.holes and segment.last > after for segment in listing)
        reaches = after == last or any(segment.first <= after + 1 <= segment.last for segment in listing)
        if after > last or holes or not reaches:
            log.warning("the order log does not hold what followed the checkpoint: beginning with nothing")
            return False
        return True

    def _restore(self, saved: Arrays) -> None:
        for name in saved["symbols"][1:]:
            self._symbols.intern(name.tobytes().rstrip(b"\0").decode("ascii"))
        whole = self._node.arrays()
        parts: dict[str, Arrays] = {"inbox": {}, "outbox": {}}
        for key, array in saved.items():
            owner, _, name = key.partition(".")
            if owner == "node":
                whole[name][tuple(slice(0, size) for size in array.shape)] = array
            elif name:
                parts[owner][name] = array
        self._inbox.restore(parts["inbox"])
        self._outbox.restore(parts["outbox"])
        after, now_ns, monotonic_ns = saved["turn"].tolist()
        self._turn.begin_again(now_ns, monotonic_ns)
        self._order.go_on(after, self._symbols)

    def _take_again(self, listing: list[Segment]) -> tuple[int, bool]:
        """Take the turns behind the checkpoint; return when the last one was, and whether none was left out."""
        last_ns, whole = self._turn.now_ns(), True
        inputs = Inputs(self._inbox.sources, self._symbols, self._rows_max)
        after = self._order.after
        for turn in turns(listing, after):
            rows = None if turn.after != after else inputs.rows(turn, self._inbox.tables())
            if rows is None:
                log.warning("an input's log does not hold the turn at %d of the order log any more", turn.position)
                whole = False
                break
            take(self._node, self._outbox.send_again, self._turn, turn, rows)
            after, last_ns = turn.position, turn.now_ns
            self._counts["recovered_turns"] += 1
            self._counts["recovered_rows"] += rows.size
        inputs.close()
        self._order.go_on(after, self._symbols)
        return last_ns, whole


def take(node: Lasting, send: Callable[[Rows], None], clock: TurnClock, turn: Turn, rows: Rows) -> None:
    """One turn of a processor again."""
    send(node.step(rows, clock.begin_again(turn.now_ns, turn.monotonic_ns)))


def _signature(spec: NodeSpec) -> bytes:
    """Stands for the code and the settings: what another build, or another topology, kept is not taken up."""
    return hashlib.sha256(f"{fingerprint()} {spec!r}".encode()).digest()
