"""Our NBBO against the tape's: the rule, and the recorded day encoded again as CQS quotes with its indicator."""

import gzip
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from fabric.compiled import kernel
from fabric.records import KIND_NBBO, NBBO, NULL, STATE_STALE, Rows, empty
from fabric.symbols import SymbolTable
from nodes.exchanges import cta_messages_kernel as encoder
from nodes.feeds import cta, cta_block_kernel, taq
from nodes.feeds.tape_check import TapeCheck
from nodes.feeds.wire import Packets
from nodes.feeds.wire_kernel import BLOCK
from nodes.nbbo import Nbbo
from tape_support import GROUPS

VENUES = "ABCDJKMNPTVXYZ"
ANSWER = "81fc70dd81959fc5156a963d9929dc2a0358e74c7007d00cd501aba0de0789df"
"""SHA-256 of the NBBO after each quote of the recorded day, from its README."""

Said = tuple[int, int, int | None]
"""(when, symbol, price of the bid or None for nothing)."""


def rows(*said: Said) -> Rows:
    found = empty(len(said), NBBO, KIND_NBBO)
    for row, (at, symbol, px) in zip(found, said, strict=True):
        row["recv_ns"] = row["exchange_seq"] = at
        row["symbol"], row["state"] = symbol, 0
        if px is not None:
            row["bid_px"], row["bid_size"], row["bid_venue"] = px, 100, ord("N")
    return found


def judged(check: TapeCheck, ours: list[Said], official: list[Said], at: int = 1_000) -> dict[str, int]:
    check.step(rows(*ours), rows(*official))
    check.finish(at)
    return {name: count for name, count in check.counters().items() if count}


class TestRule:
    def test_the_same_values_at_the_same_moment_agree(self) -> None:
        values = [(1, 1, 10), (1, 2, 20), (2, 1, 11), (3, 1, None), (4, 1, 11)]
        assert judged(TapeCheck(), values, values) == {"agreed": 5, "ours_agreed": 5}

    def test_a_value_that_the_other_never_had_differs(self) -> None:
        check = TapeCheck()
        found = judged(check, [(1, 1, 10), (2, 1, 12), (3, 1, 13)], [(1, 1, 10), (2, 1, 11), (3, 1, 13)])
        assert found == {"agreed": 2, "differed": 1, "ours_agreed": 2, "ours_differed": 1}
        found_differences = [(d.stream, d.since, d.value[0], d.beside[0]) for d in check.differences]
        assert found_differences == [("ours", 2, 12, 11), ("official", 2, 11, 13)]

    def test_of_different_sources_the_later_one_has_until_the_next_value(self) -> None:
        ours, official = [(1, 1, 10), (100, 1, 11), (103, 1, 12)], [(6, 1, 10), (109, 1, 12)]
        found = judged(TapeCheck(settle=5), ours, official)
        assert found == {"agreed": 2, "ours_agreed": 2, "ours_unsettled": 1}

    def test_a_value_that_stood_long_enough_is_judged(self) -> None:
        found = judged(TapeCheck(settle=5), [(1, 1, 10), (100, 1, 11), (105, 1, 12)], [(6, 1, 10), (109, 1, 12)])
        assert found == {"agreed": 2, "ours_agreed": 2, "ours_differed": 1}

    def test_nothing_agrees_with_having_said_nothing(self) -> None:
        assert judged(TapeCheck(), [], [(1, 1, None)]) == {"agreed": 1}

    def test_batches_make_no_difference(self) -> None:
        values = [(i, i % 3, i // 2) for i in range(60)]
        whole, parts = TapeCheck(), TapeCheck()
        official = [(at, symbol, px + 1_000 * (at == 30)) for at, symbol, px in values]
        expected = judged(whole, values, official)
        for start in range(0, 60, 7):
            parts.step(rows(*values[start : start + 7]), rows(*official[start : start + 7]))
        assert judged(parts, [], []) == expected
        assert expected["differed"] == 1

    def test_after_a_loss_nothing_is_judged_until_it_is_stated_anew(self) -> None:
        check = TapeCheck(order="exchange_seq")
        check.step(rows((1, 1, 10)), rows((1, 1, 99)))
        loss = rows((NULL, 0, None))
        loss["state"] = STATE_STALE
        check.step(rows(), loss)
        assert judged(check, [(9, 1, 11)], [(9, 1, 11)]) == {"agreed": 1, "ours_agreed": 1, "forgotten": 1}


@kernel
def encode(quotes: Any, official: Any, name: Any, packets: Any) -> None:
    """Each quote as a CQS long quote in a block of its own, with the recorded indicator and appendages."""
    for i in range(quotes.size):
        quote = quotes[i]
        packet = packets[i]
        indicator = quote["indicator"]
        size = encoder.put_long_quote(
            packet, 20, 1, quote["venue"], quote["time_ns"], name, quote["condition"], 32, quote["bid_px"],
            quote["bid_lots"], quote["ask_px"], quote["ask_lots"], 32, 78, 32, indicator,
        )  # fmt: skip
        if indicator == 85:  # U
            for side in range(2):
                best = official[i, side]
                size = encoder.put_long_appendage(packet, 20, size, best[2], 82, best[0], best[1])
        encoder.put_header(packet, 20 + size, 81, False, quote["seq"], 1, quote["time_ns"])


QUOTE = np.dtype(
    [
        (n, "<i8")
        for n in ("seq", "time_ns", "venue", "condition", "indicator", "bid_px", "bid_lots", "ask_px", "ask_lots")
    ]
)


def recorded(path: Path) -> np.ndarray:
    """The quotes of the recorded day."""
    with gzip.open(path) as file:
        columns = list(taq.QUOTE_COLUMNS.items())
        table = np.loadtxt(file, np.dtype(columns), delimiter=",", skiprows=1, encoding="ascii")
    quotes = np.zeros(table.size, QUOTE)
    quotes["seq"], quotes["time_ns"] = table["seq"], table["ts_us"] * 1_000
    for name, column in (("venue", "ex"), ("condition", "qu_cond"), ("indicator", "natbbo_ind")):
        quotes[name] = table[column].copy().view("<i8") & 0xFF
    for side, other in (("bid", "bid"), ("ask", "ask")):
        quotes[f"{side}_px"] = np.rint(table[other] * 10**9).astype(np.int64)
        quotes[f"{side}_lots"] = table[f"{other}_size"]
    return quotes


def truth(quotes: np.ndarray) -> tuple[np.ndarray, str]:
    """Best bid and offer (price, lots, venue) after each quote by the rule that the README verifies, and its hash.

    Plain Python, and no part of the code under test: the last quote of each venue, best price, then size, then the
    earliest arrival of the venue's latest quote.
    """
    bids: dict[int, tuple[int, int, int, int]] = {}
    asks: dict[int, tuple[int, int, int, int]] = {}
    found = np.zeros((quotes.size, 2, 3), np.int64)
    digest = hashlib.sha256()
    for i, row in enumerate(quotes.tolist()):
        _, _, venue, condition, _, bid_px, bid_lots, ask_px, ask_lots = row
        letter = chr(condition)
        bids.pop(venue, None)
        asks.pop(venue, None)
        if letter in "ABFHORW" and bid_px > 0 and bid_lots > 0:
            bids[venue] = (bid_px, bid_lots, -i, venue)
        if letter in "ABEHORW" and ask_px > 0 and ask_lots > 0:
            asks[venue] = (-ask_px, ask_lots, -i, venue)
        line: list[Any] = []
        for side, standing in enumerate((bids, asks)):
            if standing:
                px, lots, _, who = max(standing.values())
                found[i, side] = (abs(px), lots, who)
                line += [chr(who), abs(px) // 10_000_000, lots]
            else:
                line += ["", 0, 0]
        digest.update(f"{row[0]},{','.join(map(str, line))}\n".encode())
    return found, digest.hexdigest()


def text_of(row: Any) -> str:
    """An NBBO as the README of the recorded day hashes it."""
    parts = []
    for side in ("bid", "ask"):
        px, size, venue = (row[f"{side}_{name}"] for name in ("px", "size", "venue"))
        parts.append(",0,0" if px == NULL else f"{chr(venue)},{px // 10_000_000},{size // 100}")
    return ",".join(parts)


class TestRecordedDay:
    def test_our_nbbo_is_the_tape_s_at_every_change(self, shared_data: Path) -> None:
        quotes = recorded(shared_data / "taq_nbbo/quotes_2018-01-02.csv.gz")
        official, digest = truth(quotes)
        assert digest == ANSWER  # the appendages are those that the tape's own answer was made of
        name = np.frombuffer(b"XXX".ljust(16, b"\0"), np.uint8)
        symbols = SymbolTable(4)
        wire, nbbo = cta.Cta(symbols, rows_max=8_192), Nbbo(4, VENUES, (), 8_192)
        check = TapeCheck(order="exchange_seq")
        packets = np.zeros((4_096, 144), np.uint8)
        blocks, counters = np.zeros(4_096, BLOCK), np.zeros(cta_block_kernel.N_COUNTERS, np.int64)
        texts: dict[int, str] = {}
        for start in range(0, quotes.size, 4_096):
            part = quotes[start : start + 4_096]
            encode(part, official[start : start + 4_096], name, packets)
            count = part.size
            lengths = 20 + 87 + 36 * (part["indicator"] == ord("U"))
            lengths += lengths % 2
            offsets = np.arange(count) * 144
            zeros = np.zeros(count, np.int64)
            batch = Packets(packets.reshape(-1), offsets, lengths, zeros, zeros)
            _, made = cta_block_kernel.frame(*batch, GROUPS, 0, blocks, counters)
            assert made == count
            for decoded in wire.decode(batch.buffer, blocks[:made]):
                changed = nbbo.step(decoded, 0).view(NBBO)
                check.step(changed, wire.official)
                texts.update({int(row["exchange_seq"]): text_of(row) for row in changed})
        check.finish(0)
        counts = check.counters()
        assert counts.pop("agreed") == counts.pop("ours_agreed") == 58_372
        assert not any(counts.values()), (counts, check.differences[:3])
        digested, text = hashlib.sha256(), ""
        for number in quotes["seq"].tolist():
            text = texts.get(number, text)
            digested.update(f"{number},{text}\n".encode())
        assert digested.hexdigest() == ANSWER
        told = wire.counters()
        assert (told["quotes"], told["official_changes"], told["messages"]) == (220_557, 58_372, 220_557)
        assert counters.tolist() == [220_557, 0, 0, 0, 0, 0, 0, 0]
        assert symbols.names() == ["", "XXX"]
