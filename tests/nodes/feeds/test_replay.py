"""Replays without a bus: what is published, in which order, under which time, and what is counted."""

import gzip
import logging
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fabric.clock import SECOND_NS, EventClock
from fabric.errors import CaptureError
from fabric.records import KIND_QUOTE, KIND_STATUS, KIND_TRADE, STATUS, Rows, unpack
from fabric.symbols import SymbolTable
from fabric.topology import FeedSettings
from itch_tables import assemble
from lobster import framed
from nodes.exchanges import cboe, nasdaq, nyse
from nodes.exchanges.exchange import Program
from nodes.exchanges.market import Market
from nodes.feeds import replay
from nodes.feeds.replay import Pacer, Recording, Replay, inspect
from support import capture_of

SAMPLES = Path(__file__).resolve().parents[4] / "shared" / "data"
recorded = pytest.mark.skipif(not SAMPLES.exists(), reason="the recorded samples (../shared/data) are not here")
T = 1_500_000_000
QUOTES = "ts_us,seq,ex,bid,bid_size,ask,ask_size,qu_cond,natbbo_ind\n" + "".join(
    f"{T * 10**6 + i * 1000},{i},{'NPV'[i % 3]},10.{i:02},1,20,1,R,A\n" for i in range(30)
)
TRADES = f"ts_us,seq,ex,cond,size,price,corr,trf\n{T * 10**6 + 5000},1,D,I,7,158.005,0,N\n"


class FakeOutbox:
    def __init__(self, clock: EventClock) -> None:
        self.clock = clock
        self.sent: list[Rows] = []
        self.times: list[int] = []
        self.readers = 0

    def send(self, rows: Rows) -> None:
        self.sent.append(rows.copy())
        self.times.append(self.clock.now_ns())

    def tick(self) -> None: ...

    def counters(self) -> dict[str, int]:
        return {"published": sum(rows.size for rows in self.sent), "position": 0}


class FakeRuntime:
    """Stops the replay as soon as it reports that it is done."""

    def __init__(self) -> None:
        self.clock = EventClock()
        self.symbols = SymbolTable(1_000)
        self.digest = None
        self.log = logging.getLogger("test")
        self.last: dict[str, Any] = {}

    def report(self, counters: Callable[[], dict[str, Any]]) -> None:
        self.last = counters()

    def stopping(self) -> bool:
        return bool(self.last.get("done"))


@pytest.fixture
def quotes(tmp_path: Path) -> Path:
    path = tmp_path / "quotes_2018.csv.gz"
    path.write_bytes(gzip.compress(QUOTES.encode()))
    return path


@pytest.fixture
def trades(tmp_path: Path) -> Path:
    path = tmp_path / "trades_2018.csv"
    path.write_text(TRADES)
    return path


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """Three TOPS packets, a second apart, with a quote each."""
    path = tmp_path / "three.pcap"
    data = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65535, 101)
    for i in range(3):
        quote = struct.pack("<BBq8sIqqI", ord("Q"), 0, (T + i) * 10**9 - 5, b"A       ", 1, 10000, 10100 + i, 1)
        iex = struct.pack("<BBHIIHHqqq", 1, 0, 0x8003, 1, 9, 44, 1, 0, i + 1, (T + i) * 10**9) + b"\x2a\0" + quote
        udp = struct.pack(">HHHH", 1, 2, 8 + len(iex), 0) + iex
        ip = struct.pack(">BBHHHBBH8x", 0x45, 0, 20 + len(udp), 0, 0, 9, 17, 0) + udp
        data += struct.pack("<IIII", T + i, 0, len(ip), len(ip)) + ip
    path.write_bytes(data)
    return path


def run(**settings: Any) -> tuple[FakeOutbox, dict[str, Any]]:
    runtime = FakeRuntime()
    outbox = FakeOutbox(runtime.clock)
    chosen = FeedSettings(**{"wire": "", "venues": "V", **settings})
    recording = Recording(chosen, runtime.symbols)
    Replay(recording, chosen, outbox, runtime, 0).run()  # type: ignore[arg-type]
    recording.close()
    return outbox, runtime.last


def test_a_capture_is_published_under_its_own_time(capture: Path) -> None:
    outbox, report = run(source=str(capture))
    rows = np.concatenate(outbox.sent)
    assert rows["kind"].tolist() == [KIND_STATUS] + [KIND_QUOTE] * 3
    assert unpack(rows[:1].view(STATUS)["venue_state"][0]) == "live"
    assert rows["recv_ns"][1:].tolist() == [(T + i) * 10**9 for i in range(3)]
    assert outbox.times == [T * 10**9, (T + 2) * 10**9 - 5]  # never back, and at the latest event of what is sent
    assert (report["packets"], report["quotes"], report["message_quote"], report["gaps"], report["error"]) == (
        3,
        3,
        3,
        0,
        "",
    )
    assert (report["first_ns"], report["last_ns"]) == (T * 10**9, (T + 2) * 10**9)


def test_after_the_end_the_clock_moves_on(capture: Path) -> None:
    outbox, _ = run(source=str(capture))
    assert outbox.clock.now_ns() == (T + 2) * SECOND_NS + replay.AFTER_NS


def test_the_first_row_waits_for_every_reader(capture: Path) -> None:
    runtime = FakeRuntime()
    joined_before: list[int] = []

    class Awaited(FakeOutbox):
        def send(self, rows: Rows) -> None:
            joined_before.append(self.readers)

        def tick(self) -> None:
            self.readers += 1

    settings = FeedSettings("", "V", source=str(capture))
    recording = Recording(settings, runtime.symbols)
    Replay(recording, settings, Awaited(runtime.clock), runtime, 3).run()  # type: ignore[arg-type]
    recording.close()
    assert joined_before[0] == 3


def test_a_reader_that_never_joins_is_not_waited_for_forever(
    capture: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(replay, "JOIN_MAX_NS", 1)
    runtime = FakeRuntime()
    outbox = FakeOutbox(runtime.clock)
    settings = FeedSettings("", "V", source=str(capture))
    recording = Recording(settings, runtime.symbols)
    Replay(recording, settings, outbox, runtime, 2).run()  # type: ignore[arg-type]
    recording.close()
    assert len(outbox.sent) > 1
    assert "0 of 2 readers have joined" in caplog.text


def test_only_what_lies_between_from_and_to(capture: Path, quotes: Path) -> None:
    _, report = run(source=str(capture), from_ns=(T + 1) * 10**9, to_ns=(T + 2) * 10**9)
    assert (report["packets"], report["first_ns"], report["last_ns"]) == (1, (T + 1) * 10**9, (T + 1) * 10**9)
    _, report = run(source=str(quotes), from_ns=T * 10**9 + 5 * 10**6, to_ns=T * 10**9 + 9 * 10**6)
    assert (report["quotes"], report["messages"]) == (4, 4)


def test_the_tape_in_the_order_of_its_file(quotes: Path, trades: Path) -> None:
    outbox, report = run(source=f"{quotes}{os.pathsep}{trades}", venues="NPVD")
    rows = np.concatenate(outbox.sent[1:])
    assert rows[rows["kind"] == KIND_QUOTE]["exchange_seq"].tolist() == list(range(30))
    assert rows["kind"].tolist().index(KIND_TRADE) == 6
    assert outbox.sent[0]["venue"].tolist() == [ord(letter) for letter in "NPVD"]
    assert (report["quotes"], report["trades"], report["message_trade"], report["symbols"]) == (30, 1, 1, 1)


def test_a_folder_is_its_quotes(quotes: Path, trades: Path) -> None:
    _, report = run(source=str(quotes.parent))
    assert (report["quotes"], report["trades"]) == (30, 0)


def test_paced_at_a_speed(capture: Path) -> None:
    outbox, report = run(source=str(capture), speed=20.0)  # two seconds in a tenth
    assert [rows.size for rows in outbox.sent] == [1, 1, 1, 1]
    assert report["done"] == 1


def test_a_file_that_breaks_is_published_up_to_there_and_says_so(capture: Path) -> None:
    whole = capture.read_bytes()
    capture.write_bytes(whole[:-5])
    outbox, report = run(source=str(capture))
    assert sum(rows.size for rows in outbox.sent) == 3
    assert f"{capture}: byte " in report["error"]
    assert report["done"] == 1


def test_pacer() -> None:
    times = np.array([100, 200, 300, 250], np.int64)
    pacer = Pacer(2.0, first_ns=100, start_ns=1_000)
    assert [pacer.due(times, now) for now in (1_000, 1_049, 1_050, 1_099, 1_100)] == [1, 1, 2, 2, 4]
    assert (pacer.until(300, 1_020), pacer.until(300, 2_000)) == (80, 0)
    assert Pacer(0.0, 100, 1_000).due(times, 0) == 4


def test_an_event_far_ahead_of_its_receipt_does_not_move_the_clock(capture: Path) -> None:
    raw = bytearray(capture.read_bytes())
    at = raw.rindex(b"Q\0")
    struct.pack_into("<q", raw, at + 2, (T + 10**6) * 10**9)
    capture.write_bytes(raw)
    outbox, _ = run(source=str(capture))
    assert outbox.times[-1] == (T + 2 + 5) * SECOND_NS


def test_lines_of_pitch_are_a_recording(tmp_path: Path) -> None:
    path = tmp_path / "bzx_20080501.gz"
    line = "S342000{:02}A{:012}B000100ZVZZT {:010}Y\r\n"
    path.write_bytes(gzip.compress("".join(line.format(i, i, 10_000 + i) for i in range(1, 30)).encode()))
    assert inspect(str(path)) == replay.SourceInfo("pitch-ascii", "Z")
    outbox, report = run(source=str(path), venues="Z")
    rows = np.concatenate(outbox.sent)[1:]
    assert rows["exchange_seq"].tolist() == list(range(1, 30))
    assert {chr(venue) for venue in rows["venue"]} == {"Z"}
    assert (report["quotes"], report["last_ns"]) == (29, rows["event_ns"][-1])


def test_a_daily_file_of_itch_is_a_recording(tmp_path: Path) -> None:
    path = tmp_path / "12302019.NASDAQ_ITCH50.gz"
    opens_ns = 34_200 * SECOND_NS
    adds = [assemble("A", 1, opens_ns + i * SECOND_NS, i, "B", 100, "ZVZZT", 10_000 + i) for i in range(1, 30)]
    path.write_bytes(gzip.compress(framed(adds)))
    assert inspect(str(path)) == replay.SourceInfo("nasdaq-itch-5.0", "Q")
    outbox, report = run(source=str(path), venues="Q")
    rows = np.concatenate(outbox.sent)[1:]
    assert rows["exchange_seq"].tolist() == list(range(1, 30))
    assert np.diff(rows["event_ns"]).tolist() == [SECOND_NS] * 28
    assert (report["quotes"], report["messages"], report["gaps"], report["malformed"]) == (29, 29, 0, 0)
    assert report["last_ns"] == rows["event_ns"][-1] == 1_577_716_200 * SECOND_NS + 29 * SECOND_NS


@pytest.mark.parametrize("program", [cboe.PROGRAM, nyse.PROGRAM, nasdaq.PROGRAM], ids=["pitch", "pillar", "itch"])
def test_a_capture_of_another_exchange_is_a_recording(program: Program, tmp_path: Path) -> None:
    opens_ns = 1_767_366_000 * SECOND_NS
    options = {"by_orders": program.by_orders, "renumbers": program.renumbers, "corrects": program.corrects}
    market = Market(30, 3, opens_ns, rate=3_000.0, **options)
    encoder = program.encoder(market.names, 7)
    payloads = [packet for _ in range(2) for packet in encoder.alone(market.take(opens_ns + 2 * SECOND_NS))]
    path = capture_of(tmp_path / "x.pcap", *payloads, recv_ns=opens_ns)
    info = inspect(str(path))
    assert info.venues == program.venue
    _, report = run(source=str(path), wire=info.wire, venues=info.venues)
    assert (report["packets"], report["gaps"], report["malformed"]) == (len(payloads), 0, 0)
    assert report["messages"] == encoder.told
    assert report["quotes"] > 1_000


def test_inspect(capture: Path, quotes: Path, tmp_path: Path) -> None:
    assert inspect(str(capture)) == replay.SourceInfo("iex-tops-1.6", "V")
    assert inspect(str(quotes)) == replay.SourceInfo("taq", "NPV", "NPV")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CaptureError, match="expected recorded quotes in the folder"):
        inspect(str(empty))
    capture.write_bytes(capture.read_bytes()[:24])
    with pytest.raises(CaptureError, match=r"expected packets of nasdaq-itch-5\.0, cboe-pitch-2\.41, nyse-pillar"):
        inspect(str(capture))


@recorded
def test_inspect_recorded() -> None:
    assert inspect(str(SAMPLES / "iex/DEEP10_session12.pcap.gz")) == replay.SourceInfo("iex-deep-1.0", "V")
    assert inspect(str(SAMPLES / "taq_nbbo")).venues == "ABJKMNPTVXYZ"
