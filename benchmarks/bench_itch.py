"""ITCH 5.0 decoded and booked, messages a second on one core, beside other ITCH parsers and a plain copy of the bytes.

The flow is an hour of AAPL's real orders (LOBSTER, re-encoded), or without that recording a seeded one: once, as 40
symbols in turn, and as 400 (the first tenth of each), each symbol beginning at another moment, orders numbered in
the order of arrival as NASDAQ does. Ours is timed from MoldUDP64 packets to rows: framing, decoding, book, quotes and
trades. The others get the same messages as one buffer or file, each with what it offers that comes nearest:

* itch-book (C++): book, best bids and offers, trades; what it found is compared with ours
* itchcpp (C++): book
* itchfeed and meatpy (Python): messages alone, of the first ones

`pip install --target FOLDER itch-book itchcpp itchfeed meatpy` and FABRIC_PEERS=FOLDER brings them; one that is not
there is left out. Times are of the thread's own processor time, best of the rounds, so other load falls out in part.

Run: python benchmarks/bench_itch.py [rounds]
"""

import importlib
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from machine import describe

ROOT = Path(__file__).resolve().parent.parent
sys.path += [str(ROOT / "tests"), *filter(None, [os.environ.get("FABRIC_PEERS")])]

# what these need has just been put on the path
import lobster  # noqa: E402
from fabric.symbols import SymbolTable  # noqa: E402
from nodes.feeds import itch, moldudp64_kernel, order_book_kernel  # noqa: E402
from nodes.feeds.wire import from_payloads  # noqa: E402
from nodes.feeds.wire_kernel import BLOCK  # noqa: E402

LOBSTER = ROOT.parent / "shared/data/lobster"
T0 = 1_340_285_400_000_000_000  # 2012-06-21 09:30:00 in New York
BLOCKS = 64  # packets in a batch
SLOW_MESSAGES = 50_000
ORDER_KINDS = b"AFEXDCU"


def recorded() -> tuple[str, list[lobster.Event], list[lobster.Level]]:
    """AAPL's hour and the book that it begins with; a seeded flow in its place where it is not there."""
    if LOBSTER.exists():
        levels = lobster.read_levels(LOBSTER / "AAPL_2012-06-21_orderbook_10.csv.gz")
        return "LOBSTER's AAPL", lobster.read_events(LOBSTER / "AAPL_2012-06-21_message_50.csv.gz"), levels[0]
    return "a seeded flow", list(seeded(random.Random(1), 92_000)), [(5_000_100, 100, False), (4_999_900, 100, True)]


def seeded(chance: random.Random, count: int) -> Iterator[lobster.Event]:
    """Orders that come near the middle and mostly go soon."""
    live: list[lobster.Event] = []
    for number in range(count):
        time_ns = 34_200 * 10**9 + number * 39_000_000
        if len(live) < 300 or chance.random() < 0.48:
            is_buy = chance.random() < 0.5
            away = int(chance.expovariate(1 / 8)) * 100 + 100
            price = 5_000_000 - away if is_buy else 5_000_000 + away
            live.append(lobster.Event(time_ns, 1, number, 100, price, is_buy))
            yield live[-1]
        else:
            gone = live.pop(max(0, len(live) - 1 - int(chance.expovariate(1 / 60))))
            kind = 4 if chance.random() < 0.1 else 3
            yield lobster.Event(time_ns, kind, gone.order_id, gone.size, gone.price, gone.is_buy)


def stream(events: list[lobster.Event], levels: list[lobster.Level], copies: int, share: float) -> list[bytes]:
    """The flow as messages of ``copies`` symbols, in bursts, of each the first ``share``."""
    encoder = lobster.Encoder(stock="S0000")
    start = encoder.start(events[0].time_ns, levels)
    base = start + [encoder.encode(event) for event in events[1 : int(len(events) * share)]]
    chance, found = random.Random(1), []
    at = [0] * copies
    running = list(range(copies))
    ids: dict[tuple[int, bytes], bytes] = {}
    while running:
        symbol = chance.choice(running)
        for body in base[at[symbol] : at[symbol] + chance.randrange(1, 8)]:
            at[symbol] += 1
            body = body[:1] + (symbol + 1).to_bytes(2, "big") + body[3:].replace(b"S0000", b"S%04d" % symbol)
            if body[0] in ORDER_KINDS:
                number = ids.setdefault((symbol, body[11:19]), (1_000 + 2 * len(ids)).to_bytes(8, "big"))
                body = body[:11] + number + body[19:]
            found.append(body)
        if at[symbol] == len(base):
            running.remove(symbol)
    return found


def ours(messages: list[bytes], rounds: int) -> tuple[float, float, dict[str, int]]:
    """Nanoseconds a message of all of it, of framing alone, and the counters of one round."""
    packets = from_payloads(lobster.packets(messages), recv_ns=T0)
    batches = [packets.part(i, i + BLOCKS) for i in range(0, packets.offsets.size, BLOCKS)]
    blocks, counters = np.zeros(BLOCKS, BLOCK), np.zeros(moldudp64_kernel.N_COUNTERS, np.int64)
    wire, groups = itch.Itch(SymbolTable(10_000)), np.zeros(1, np.int64)

    def frame(i: int) -> Any:
        _, made = moldudp64_kernel.frame(*batches[i], groups, 0, blocks, counters)
        return blocks[:made]

    def decode(i: int) -> None:
        for _ in wire.decode(packets.buffer, frame(i)):
            pass

    def reset() -> None:
        order_book_kernel.clear_all(wire.state.book)
        wire.state.symbols["px"] = wire.state.symbols["size"] = np.iinfo(np.int64).min
        for counted in (wire.state.counters, wire.state.book.counters):
            counted[:] = 0

    framing = best(len(batches), rounds, frame)
    total = best(len(batches), rounds, decode, reset)
    return total / len(messages), framing / len(messages), wire.counters()


def best(pieces: int, rounds: int, work: Callable[[int], Any], reset: Callable[[], None] = lambda: None) -> float:
    """Nanoseconds of this thread that ``work(0) ... work(pieces - 1)`` take, each piece at its best of ``rounds``."""
    least = np.full(pieces, np.inf)
    for _ in range(rounds):
        reset()
        for piece in range(pieces):
            start = time.thread_time_ns()
            work(piece)
            least[piece] = min(least[piece], time.thread_time_ns() - start)
    return float(least.sum())


def peer(name: str) -> ModuleType | None:
    """A peer's module, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def itch_book(raw: bytes, messages: int, rounds: int) -> tuple[float, str] | None:
    """Nanoseconds a message with book, best bids and offers, trades; and how many of those it found."""
    core = peer("itch_book._core")
    if core is None:
        return None
    pieces = [raw[i : i + (1 << 17)] for i in range(0, len(raw), 1 << 17)]
    state: list[Any] = []
    rows = [0, 0]

    def reset() -> None:
        state[:] = [core.Session(["bbo", "trades"], 0, [])]
        rows[:] = [0, 0]

    def feed(i: int) -> None:
        state[0].feed(pieces[i])
        rows[0] += state[0].take_bbo()["ts"].size
        rows[1] += state[0].take_trades()["ts"].size

    return best(len(pieces), rounds, feed, reset) / messages, f"{rows[0]:,} quotes, {rows[1]:,} trades"


def itchcpp(raw: bytes, messages: int, rounds: int) -> tuple[float, str] | None:
    """Nanoseconds a message with book."""
    book = peer("itchcpp.book")
    if book is None:
        return None
    return best(1, rounds, lambda _: book.BookManager().process_stream(raw)) / messages, "book alone"


def itchfeed(messages: list[bytes]) -> tuple[float, str] | None:
    """Nanoseconds a message, messages alone."""
    parser = peer("itch.parser")
    if parser is None:
        return None
    raw = lobster.framed(messages)

    def read(_: int) -> None:
        for _ in parser.MessageParser().parse_stream(raw):
            pass

    return best(1, 2, read) / len(messages), "messages alone"


def meatpy(messages: list[bytes]) -> tuple[float, str] | None:
    """Nanoseconds a message, messages alone, from a file."""
    module = peer("meatpy.itch50")
    if module is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flow.itch"
        path.write_bytes(lobster.framed(messages))

        def read(_: int) -> None:
            with module.ITCH50MessageReader(path) as reader:
                for _ in reader:
                    pass

        return best(1, 2, read) / len(messages), "messages alone"


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(describe())
    name, events, levels = recorded()
    for copies, share in ((1, 1.0), (40, 1.0), (400, 0.1)):
        messages = stream(events, levels, copies, share)
        raw = lobster.framed(messages)
        data = np.frombuffer(raw, np.uint8)
        target = np.empty_like(data)
        copied = best(1, rounds, lambda _: np.copyto(target, data)) / len(messages)  # noqa: B023  (called within its turn)
        total, framing, counts = ours(messages, rounds)
        print(f"{name} as {copies} symbols, {len(messages):,} messages, {len(raw) >> 20} MiB")
        told = f"{counts['quotes']:,} quotes, {counts['trades']:,} trades; framing {framing:.1f} ns of it"
        lines = [("ours", (total, told)), ("copy of the bytes", (copied, "the memory's limit"))]
        lines += [("itch-book (C++)", itch_book(raw, len(messages), rounds))]
        lines += [("itchcpp (C++)", itchcpp(raw, len(messages), rounds))]
        if copies == 1:
            lines += [("itchfeed (Python)", itchfeed(messages[:SLOW_MESSAGES]))]
            lines += [("meatpy (Python)", meatpy(messages[:SLOW_MESSAGES]))]
        for who, measured in lines:
            if measured is None:
                print(f"  {who:18} not installed")
                continue
            took, remark = measured
            print(
                f"  {who:18} {1_000 / took:8.2f} M/s {took:8.1f} ns  ours is {took / total:6.2f} x   {remark}",
                flush=True,
            )


if __name__ == "__main__":
    main()
