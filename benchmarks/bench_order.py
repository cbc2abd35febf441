"""The order log: what noting a turn costs a processor beside the NBBO's own step, and how fast turns come back.

Batches of quotes of 5,000 symbols, as an inbox gives them; processor time of one thread. The aim is that noting is
small beside the step that it precedes.
"""

import random
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import describe

from fabric import codec, order_kernel
from fabric import journal_kernel as jk
from fabric.bus_kernel import warm_up
from fabric.clock import SystemClock
from fabric.journal import Journal, segments
from fabric.order import Inputs, OrderLog, folder_of, turns
from fabric.records import KIND_QUOTE, QUOTE, empty, pack
from fabric.symbols import SymbolTable
from fabric.topology import JournalSettings, Publisher, Source
from nodes.nbbo import Nbbo

SYMBOLS, ROWS, ROUNDS = 5_000, 400_000, 3
SIZES = (16, 64, 256, 1_024)


def main() -> None:
    print(describe())
    rng = random.Random(1)
    symbols = SymbolTable(SYMBOLS + 1)
    for i in range(SYMBOLS):
        symbols.intern(f"S{i}")
    rows = empty(ROWS, QUOTE, KIND_QUOTE)
    rows["symbol"] = np.random.default_rng(1).integers(1, SYMBOLS + 1, ROWS)
    rows["venue"], rows["seq"], rows["epoch"] = ord("V"), np.arange(ROWS) + 1, 1
    rows["position"] = np.cumsum(np.random.default_rng(2).integers(1, 6, ROWS))  # of three shards this reads one
    rows["bid_px"] = [rng.randrange(100, 110) * 10**9 for _ in range(ROWS)]
    rows["bid_size"], rows["condition"], rows["tape"], rows["event_ns"] = 100, pack("R"), pack("C"), 1
    for kernels in (warm_up, order_kernel.warm_up, jk.warm_up):
        kernels()
    node = Nbbo(SYMBOLS + 1, "V", ("V",), max(SIZES))
    node.warm_up()
    for size in SIZES:
        with tempfile.TemporaryDirectory() as place:
            settings = JournalSettings(place, keep_ns=2**62, bytes_max=1 << 30)
            log = OrderLog("p", 1, settings, SystemClock(), 1)
            noting = stepping = 0
            given = np.array([[0, size, order_kernel.BY_LOG]])
            for at in range(0, ROWS - size + 1, size):
                batch = rows[at : at + size]
                began = time.thread_time_ns()
                log.note(batch, given, symbols, 1, 1, 0)
                between = time.thread_time_ns()
                node.step(batch, 1)
                stepping += time.thread_time_ns() - between
                noting += between - began
            counted = log.counters()["order_bytes"]
            log.close()
        turns_made = ROWS // size
        noted_us, stepped_us = noting / turns_made / 1e3, stepping / turns_made / 1e3
        print(f"{size:>6} rows a turn: noted in {noted_us:6.1f} us, stepped in {stepped_us:6.1f} us "
              f"(ratio {noted_us / stepped_us:.2f}); {counted / ROWS:.1f} bytes a row")  # fmt: skip
    for size in (64, 256):
        alone, stepped = taken_again(rows, symbols, size, node)
        print(f"turns of {size} rows from the input's log: {alone / 1e6:.2f} M rows/s brought back, "
              f"{stepped / 1e6:.2f} M rows/s into the NBBO")  # fmt: skip


def taken_again(
    rows: np.ndarray, symbols: SymbolTable, size: int, node: Nbbo  # type: ignore[type-arg]  (rows of the bus, unnamed)
) -> tuple[float, float]:  # fmt: skip
    """Rows a second of processor time: brought back alone, and given to the NBBO, as `fabric replay` of a log does."""
    best = {False: 0.0, True: 0.0}
    with tempfile.TemporaryDirectory() as place:
        settings = JournalSettings(place, keep_ns=2**62, bytes_max=1 << 30)
        feed, order = (
            Journal(Path(place) / "feed", settings, SystemClock(), 1),
            OrderLog("p", 1, settings, SystemClock(), 1),
        )
        rows = rows.copy()
        rows["position"] = np.arange(ROWS) + 1
        for at in range(0, ROWS, size):
            batch = rows[at : at + size]
            data, ends = codec.lay_out(codec.encode(batch, symbols))
            done = 0
            while done < ends.shape[0]:
                done = int(jk.append_all(feed.state, data, ends, done, 1, 1, 1))
                if done < ends.shape[0]:
                    feed.wait_for_room()
            order.note(batch, np.array([[0, batch.size, order_kernel.BY_LOG]]), symbols, 1, 1, 0)
        feed.close()
        order.close()
        publisher = Publisher("feed", "", "", ("quote", "trade", "status"), "V", journal=settings)
        for stepping in (False, True) * ROUNDS:
            inputs = Inputs([Source(publisher, ("quote.",))], symbols, 8_192)
            layout = np.full((1, 16, 2), -1, np.int64)
            layout[0, KIND_QUOTE] = 0, 27
            known = {
                "state": np.zeros((1, 28), np.int64), "layout": layout, "advance": np.zeros((1, 16, 128), np.int64),
                "last": np.zeros(27 * (SYMBOLS + 1), np.int64), "places": np.zeros(27 * (SYMBOLS + 1), np.int64),
            }  # fmt: skip
            began, count = time.process_time(), 0
            for turn in turns(segments(folder_of(settings, "p"))):
                found = inputs.rows(turn, known)
                assert found is not None
                count += found.size
                if stepping:
                    node.step(found, turn.now_ns)
            best[stepping] = max(best[stepping], count / (time.process_time() - began))
            inputs.close()
    return best[False], best[True]


if __name__ == "__main__":
    main()
