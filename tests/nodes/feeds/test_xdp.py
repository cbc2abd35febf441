"""The decoder of NYSE's feeds: golden bytes, rows of each message, gaps and refreshes, recordings, twin, mutations."""

import random
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import mutation
import naive_iex
import naive_xdp
from fabric.symbols import SymbolTable
from golden import golden
from nodes.feeds import xdp, xdp_kernel
from nodes.feeds.capture import Capture
from nodes.feeds.wire_kernel import BLOCK
from support import random_count
from xdp_support import (
    INDEXES,
    NAMES,
    SECOND,
    SECOND_NS,
    SENT_NS,
    Feed,
    Row,
    Twin,
    add,
    add_refresh,
    clear,
    cross,
    delete,
    execution,
    mapping,
    message,
    modify,
    packet,
    quote,
    random_message,
    refresh_header,
    replace,
    reset,
    status,
    time_reference,
    trade,
)

SAMPLES = Path(__file__).resolve().parents[4] / "shared" / "data"
recorded = pytest.mark.skipif(not SAMPLES.exists(), reason="the recorded samples (../shared/data) are not here")
CENT = 10_000_000
BYTES = golden("nyse/pillar.hex")
GOLDEN_NS = SECOND * SECOND_NS + 714_240
"""The time in the golden messages."""


def prices(rows: list[Row]) -> list[tuple[object, object]]:
    """Bid and ask of the quotes."""
    return [(row[6], row[7]) for row in rows if row[0] == "quote"]


@pytest.fixture
def feed() -> Feed:
    """A feed that knows index 1 as ACP."""
    made = Feed()
    made(packet(mapping()))
    return made


class TestGolden:
    @pytest.fixture
    def brk(self) -> Feed:
        made = Feed()
        (row,) = made(packet(BYTES["mapping"]))
        assert row == ("status", "BRK.B", "N", "A", 1, SENT_NS, "", "", "", 100, None, None, "")
        return made

    def test_packet_of_a_time_reference_and_a_quote(self, brk: Feed) -> None:
        bid, ask = (40_260_100_000, 100), (40_270_000_000, 300)
        assert brk(BYTES["packet"] + BYTES["time_reference"] + BYTES["quote"]) == [
            ("quote", "BRK.B", "N", "A", 490_559, GOLDEN_NS, bid, ask, "R")
        ]

    @pytest.mark.parametrize(
        ("name", "own"),
        [
            ("execution", ("trade", 40_270_000_000, 100, "@F I", 68_747, "", None)),
            ("non_displayed", ("trade", 40_270_000_000, 100, "@", 91_449, "", None)),
            ("cross", ("trade", 40_270_000_000, 1_000, "@6", 184_796, "", None)),
            ("break", ("trade", None, None, "", None, "x", 91_449)),
            ("trade", ("trade", 40_270_000_000, 10, "@  I", 42, "", None)),
            ("trade_cancel", ("trade", None, None, "", None, "x", 42)),
            ("trade_correction", ("trade", 40_260_100_000, 11, "@  I", 43, "c", 42)),
            ("status_halted", ("status", "H", "M", "0", 100, None, None, "")),
            ("status_indication", ("status", "", "", "1", 100, 40_260_100_000, 40_270_000_000, "G")),
        ],
    )
    def test_a_message_and_its_row(self, brk: Feed, name: str, own: Row) -> None:
        assert brk(packet(BYTES[name], first=9)) == [(own[0], "BRK.B", "N", "A", 9, GOLDEN_NS, *own[1:])]

    def test_the_life_of_an_order(self, brk: Feed) -> None:
        rows = brk(packet(*(BYTES[name] for name in ("add", "modify", "delete"))))
        assert [row[4] for row in rows] == [1, 2, 3]
        assert prices(rows) == [((40_270_000_000, 1_200), None), ((40_260_100_000, 100), None), (None, None)]
        rows = brk(packet(*(BYTES[name] for name in ("add", "execution", "replace"))))
        assert [row[0] for row in rows] == ["quote", "trade", "quote", "quote"]
        assert prices(rows) == [((40_270_000_000, n), None) for n in (1_200, 1_100)] + [((40_260_100_000, 200), None)]

    def test_a_cross_and_its_correction(self, brk: Feed) -> None:
        rows = brk(packet(BYTES["cross"], BYTES["cross_correction"]))
        assert rows[1][6:] == (40_270_000_000, 900, "@", 184_796, "c", 184_796)

    @pytest.mark.parametrize("name", ["reset", "unavailable", "imbalance", "retail", "summary", "refresh_header"])
    def test_what_has_no_row_is_counted(self, brk: Feed, name: str) -> None:
        assert brk(packet(BYTES[name])) == []
        counts = brk.xdp.counters()
        assert (counts["unknown"], counts["malformed"]) == (0, 0)
        assert sum(brk.xdp.messages_by_type().values()) == 2

    def test_every_type_has_a_golden_message_or_is_of_the_trf(self) -> None:
        messages = [data for name, data in BYTES.items() if name not in ("heartbeat", "packet")]
        told = {struct.unpack_from("<H", data, 2)[0] for data in messages}
        assert told | {210, 212, 213, 214, 216} == set(xdp.TYPE_NAMES) == set(naive_xdp.LENGTHS)

    @pytest.mark.parametrize("kind", sorted(naive_xdp.LENGTHS))
    def test_a_message_that_is_too_short_for_its_type(self, brk: Feed, kind: int) -> None:
        short = message(kind, "", size=naive_xdp.LENGTHS[kind] - 1)
        brk(packet(short, message(kind, "", size=naive_xdp.LENGTHS[kind])))
        assert brk.xdp.counters()["malformed_message"] == (2 if kind == 3 else 1)  # a mapping of zeros is none


class TestSymbols:
    @pytest.mark.parametrize(
        ("sent", "name"),
        [
            ("ACP", "ACP"),
            ("LGF A", "LGF.A"),
            ("AHL PRC", "AHL-C"),
            ("DTLA PR", "DTLA-"),
            ("ELEVENCHARS", "ELEVENCHARS"),
        ],
    )
    def test_names_are_written_as_elsewhere(self, sent: str, name: str) -> None:
        ((_, got, *_),) = Feed()(packet(mapping(name=sent)))
        assert got == name

    @pytest.mark.parametrize(
        "wrong",
        [{"name": ""}, {"name": "A|B"}, {"name": "A B C"}, {"scale": 10}, {"market": 2}, {"index": 1 << 17}],
    )
    def test_a_mapping_that_cannot_be(self, wrong: dict) -> None:
        feed = Feed()
        assert feed(packet(mapping(**wrong))) == []
        assert feed.xdp.counters()["malformed_message"] == 1

    @pytest.mark.parametrize(("market", "venue"), [(1, "N"), (3, "P"), (9, "A"), (10, "C"), (11, "M")])
    def test_the_market_is_the_venue(self, market: int, venue: str) -> None:
        assert Feed()(packet(mapping(market=market)))[0][2] == venue

    def test_a_feed_may_be_told_its_venue(self) -> None:
        assert Feed(venue="N")(packet(mapping(market=99)))[0][2] == "N"

    @pytest.mark.parametrize(
        ("listed", "tape"), [("N", "A"), ("P", "B"), ("A", "B"), ("Z", "B"), ("Q", "C"), ("U", "")]
    )
    def test_the_tape_is_that_of_the_listing_exchange(self, listed: str, tape: str) -> None:
        assert Feed()(packet(mapping(listed=listed)))[0][3] == tape

    def test_no_mapping_no_price(self, feed: Feed) -> None:
        assert feed(packet(quote(1, 100_000, 1, 100_100, 1, index=2), trade(1, 1, 1, 1, index=1 << 20))) == []
        assert feed.xdp.counters()["no_mapping"] == 2

    def test_an_index_is_of_its_channel(self, feed: Feed) -> None:
        assert feed(packet(quote(1, 100_000, 1, 100_100, 1)), line=2) == []
        feed(packet(mapping(name="OTHER", scale=2)), line=2)
        assert prices(feed(packet(quote(1, 1_000, 1, 1_001, 1)), line=2)) == [((1_000 * CENT, 1), (1_001 * CENT, 1))]

    def test_a_mapping_that_is_repeated_changes_nothing(self, feed: Feed) -> None:
        feed(packet(add(1, 1, "B", 100_000, 100)))
        assert feed(packet(mapping())) == []
        assert prices(feed(packet(add(2, 2, "B", 100_000, 100)))) == [((1_000 * CENT, 200), None)]

    def test_an_index_that_stands_for_another_symbol_voids_the_old_one(self, feed: Feed) -> None:
        feed(packet(add(1, 1, "B", 100_000, 100)))
        rows = feed(packet(mapping(name="NEW")))
        assert [(row[0], row[1]) for row in rows] == [("quote", "ACP"), ("status", "NEW")]
        assert prices(rows) == [(None, None)]

    def test_a_full_symbol_table_refuses_and_counts(self) -> None:
        feed = Feed(symbols_max=2)  # the empty name and one more
        feed(packet(mapping(), mapping(index=2, name="B")))
        assert feed.xdp.counters()["refused"] == 1

    @pytest.mark.parametrize(
        ("scale", "price"), [(0, 100 * 100 * CENT), (2, 100 * CENT), (4, CENT), (6, 100_000), (9, 100)]
    )
    def test_prices_have_the_scale_of_their_symbol(self, scale: int, price: int) -> None:
        feed = Feed()
        feed(packet(mapping(scale=scale)))
        assert feed(packet(trade(1, 1, 100, 1)))[0][6] == price

    def test_a_price_that_no_record_can_hold(self) -> None:
        feed = Feed()
        feed(packet(mapping(scale=0)))
        assert feed(packet(trade(1, 1, 2_250_001, 1), add(2, 1, "B", 2_250_001, 1))) == []
        assert feed.xdp.counters()["no_price"] == 2


class TestTime:
    def test_the_second_is_that_of_the_matching_engine(self, feed: Feed) -> None:
        feed(packet(mapping(2, "B", engine=6), time_reference(5, 1_000), time_reference(6, 2_000)))
        rows = feed(packet(quote(1, 1, 1, 2, 1, ns=3), quote(1, 1, 1, 2, 1, index=2, ns=4)))
        assert [row[5] for row in rows] == [1_000 * SECOND_NS + 3, 2_000 * SECOND_NS + 4]

    @pytest.mark.parametrize(
        ("ns", "second"), [(0, 0), (748_288, 0), (500_748_288, 0), (500_748_289, -1), (999_999_999, -1)]
    )
    def test_without_one_it_is_the_nearest_to_the_time_of_sending(self, feed: Feed, ns: int, second: int) -> None:
        assert feed(packet(quote(1, 1, 1, 2, 1, ns=ns)))[0][5] == (SECOND + second) * SECOND_NS + ns

    def test_a_second_ends_between_an_event_and_its_packet_or_begins(self, feed: Feed) -> None:
        sent = SECOND * SECOND_NS + 999_999_990
        assert feed(packet(quote(1, 1, 1, 2, 1, ns=5), sent_ns=sent))[0][5] == (SECOND + 1) * SECOND_NS + 5

    def test_after_a_gap_an_old_second_is_not_trusted(self, feed: Feed) -> None:
        feed(packet(time_reference(5, 1_000)))
        feed.lose()
        assert feed(packet(quote(1, 1, 1, 2, 1, ns=3)))[0][5] == SECOND * SECOND_NS + 3

    def test_nanoseconds_that_cannot_be(self, feed: Feed) -> None:
        assert feed(packet(quote(1, 1, 1, 2, 1, ns=SECOND_NS))) == []
        assert feed.xdp.counters()["malformed_message"] == 1


class TestQuotes:
    @pytest.mark.parametrize("extra", [b"", b"\0\0\0\0", bytes(40)])
    def test_in_every_length_that_it_has_had(self, feed: Feed, extra: bytes) -> None:
        data = quote(1, 99_900, 100, 100_100, 200)
        longer = struct.pack("<H", len(data) + len(extra)) + data[2:] + extra
        assert prices(feed(packet(longer, quote(2, 1, 1, 2, 1)))) == [
            ((999 * CENT, 100), (1_001 * CENT, 200)),
            ((10**5, 1), (2 * 10**5, 1)),
        ]

    def test_a_side_without_volume_does_not_exist(self, feed: Feed) -> None:
        sent = [quote(1, 99_900, 0, 100_100, 200), quote(2, 99_900, 100, 0, 0), quote(3, 0, 0, 0, 0)]
        assert prices(feed(packet(*sent))) == [(None, (1_001 * CENT, 200)), ((999 * CENT, 100), None), (None, None)]

    def test_the_condition_is_as_sent(self, feed: Feed) -> None:
        assert feed(packet(quote(1, 1, 1, 2, 1, condition="O")))[0][8] == "O"


class TestBook:
    def test_the_best_is_the_sum_of_its_orders(self, feed: Feed) -> None:
        sent = [
            add(1, 1, "B", 99_900, 100),
            add(2, 2, "B", 99_900, 50),
            add(3, 3, "S", 100_100, 70),
            add(4, 4, "B", 99_800, 500),  # behind the best: no quote
            modify(5, 2, 99_700, 50),
            replace(6, 1, 5, 99_600, 10),
            delete(7, 4),
        ]
        rows = feed(packet(*sent))
        assert [row[4] for row in rows] == [1, 2, 3, 5, 6, 7]
        assert prices(rows) == [
            ((999 * CENT, 100), None),
            ((999 * CENT, 150), None),
            ((999 * CENT, 150), (1_001 * CENT, 70)),
            ((999 * CENT, 100), (1_001 * CENT, 70)),
            ((998 * CENT, 500), (1_001 * CENT, 70)),
            ((997 * CENT, 50), (1_001 * CENT, 70)),
        ]

    def test_an_execution_prints_and_takes_from_the_book(self, feed: Feed) -> None:
        rows = feed(packet(add(1, 1, "S", 100_000, 100), execution(2, 1, 99_990, 30, conditions=b"@F I")))
        assert [row[0] for row in rows] == ["quote", "trade", "quote"]
        assert rows[1][6:9] == (99_990 * 10**5, 30, "@F I")
        assert prices(rows)[1] == (None, (1_000 * CENT, 70))

    def test_an_execution_of_a_cross_does_not_print_twice(self, feed: Feed) -> None:
        feed(packet(add(1, 1, "S", 100_000, 100)))
        rows = feed(packet(execution(2, 1, 100_000, 100, printed=0), cross(3, 7, 100_000, 100)))
        assert [row[0] for row in rows] == ["quote", "trade"]
        assert feed.xdp.counters()["not_printed"] == 1

    def test_orders_that_are_not_there_are_orphans(self, feed: Feed) -> None:
        feed(packet(mapping(2, "B"), add(1, 1, "B", 99_900, 100, index=2)))
        absent = [delete(1, 7), modify(2, 7, 1, 1), replace(3, 7, 8, 1, 1), execution(5, 7, 1, 1)]
        another = delete(4, 1)  # of the other symbol
        assert [row[0] for row in feed(packet(*absent, another))] == ["trade"]
        assert feed.xdp.counters()["orphans"] == 5

    def test_a_modify_to_nothing_takes_the_order_away(self, feed: Feed) -> None:
        assert prices(feed(packet(add(1, 1, "B", 99_900, 100), modify(2, 1, 99_900, 0)))) == [
            ((999 * CENT, 100), None),
            (None, None),
        ]

    def test_an_order_with_an_id_above_63_bits_is_malformed(self, feed: Feed) -> None:
        assert feed(packet(add(1, 1 << 63, "B", 99_900, 100))) == []
        assert feed.xdp.counters()["malformed_message"] == 1

    def test_a_full_book_refuses_and_counts(self, feed: Feed) -> None:
        for i in range(50):
            feed(packet(*(add(1, i * 100 + j, "B", 99_900, 1) for j in range(100))))
        assert feed.xdp.counters()["orders"] == 4_096
        assert feed.xdp.counters()["orders_refused"] == 5_000 - 4_096

    def test_a_symbol_clear_takes_all_its_orders(self, feed: Feed) -> None:
        feed(packet(mapping(2, "B"), add(1, 1, "B", 99_900, 100), add(1, 2, "B", 99_900, 100, index=2)))
        assert prices(feed(packet(clear()))) == [(None, None)]
        assert prices(feed(packet(add(1, 3, "B", 99_800, 5)))) == [((998 * CENT, 5), None)]
        assert feed.xdp.counters()["orders"] == 2


class TestStatus:
    def told(self, feed: Feed, *sent: bytes) -> list[tuple[object, ...]]:
        return [(*row[6:9], *row[10:]) for row in feed(packet(*sent))]

    def test_a_day(self, feed: Feed) -> None:
        sent = [
            status(1, "P", halt=" ", session="P"),
            status(2, "E", session="E"),
            status(3, "O"),
            status(4, "O"),
            status(5, "4", "D"),
            status(6, "I", "D", prices=(100_000, 101_000)),
            status(7, "5"),
            status(8, "A", ssr="E"),
            status(9, "L", ssr="E", session="L"),
            status(10, "X", ssr="E", session="X"),
        ]
        none = (None, None, "")
        assert self.told(feed, *sent) == [
            ("O", "P", "0", *none),
            ("T", "E", "0", *none),
            ("T", "O", "0", *none),
            ("H", "D", "0", *none),
            ("H", "D", "0", 1_000 * CENT, 1_010 * CENT, "I"),
            ("T", "O", "0", *none),
            ("T", "O", "1", *none),
            ("T", "L", "1", *none),
            ("C", "X", "1", *none),
        ]

    def test_a_halt_without_a_condition_is_its_status(self, feed: Feed) -> None:
        assert [row[:2] for row in self.told(feed, status(1, "4"), status(2, "6"), status(3, "3"))] == [
            ("H", "4"),
            ("H", "6"),
            ("H", "3"),
        ]

    def test_a_restriction_that_continues_stays_continued(self, feed: Feed) -> None:
        sent = [status(1, "C", ssr="E"), status(2, "O", ssr="E"), status(3, "D")]
        assert [row[2] for row in self.told(feed, *sent)] == ["2", "2", "0"]

    def test_a_resumption_before_the_open_accepts_orders(self, feed: Feed) -> None:
        assert [row[:2] for row in self.told(feed, status(1, "4", "D"), status(2, "5", session="P"))] == [
            ("H", "D"),
            ("O", "P"),
        ]


class TestLoss:
    def test_a_gap_withdraws_the_quotes_of_its_channel(self, feed: Feed) -> None:
        feed(packet(mapping(2, "B"), mapping(3, "C"), add(1, 1, "B", 99_900, 1), quote(1, 1, 1, 2, 1, index=2)))
        feed(packet(mapping(name="ELSEWHERE"), add(1, 9, "B", 99_900, 1)), line=2)
        rows = feed.lose()
        assert [(row[1], row[4], row[5]) for row in rows] == [("ACP", None, SENT_NS), ("B", None, SENT_NS)]
        assert prices(rows) == [(None, None), (None, None)]
        assert feed.xdp.lost() == [(0, 1), (0, 2)]
        assert feed.xdp.counters()["lost_books"] == 2

    def test_a_quote_is_whole_in_itself_and_an_order_is_not(self, feed: Feed) -> None:
        feed(packet(mapping(2, "B"), add(1, 1, "B", 99_900, 1), quote(1, 1, 1, 2, 1, index=2)))
        feed.lose()
        rows = feed(packet(add(2, 2, "B", 99_800, 1), quote(2, 1, 1, 2, 1, index=2)))
        assert [row[1] for row in rows] == ["B"]
        assert feed.xdp.lost() == [(0, 1)]

    def test_a_symbol_clear_ends_the_loss(self, feed: Feed) -> None:
        feed(packet(add(1, 1, "B", 99_900, 1)))
        feed.lose()
        assert prices(feed(packet(clear(), add(1, 2, "B", 99_800, 1)))) == [((998 * CENT, 1), None)]
        assert feed.xdp.lost() == []

    def test_a_restart_forgets_the_mappings_too(self, feed: Feed) -> None:
        feed(packet(add(1, 1, "B", 99_900, 1)))
        assert prices(feed.lose(restart=True)) == [(None, None)]
        assert feed(packet(add(1, 2, "B", 99_900, 1))) == []
        rows = feed(packet(mapping(), add(1, 1, "B", 99_900, 1)))
        assert [row[0] for row in rows] == ["status", "quote"]
        assert feed.xdp.lost() == []

    def test_more_withdrawals_than_rows(self) -> None:
        feed = Feed(symbols_max=8_192)
        names = [f"S{i}" for i in range(5_000)]
        for i, name in enumerate(names):
            feed(packet(mapping(i, name), quote(1, 1, 1, 2, 1, index=i)))
        buffer, data = feed.frame([packet(quote(2, 1, 1, 2, 1))])
        block = np.zeros(2, BLOCK)
        block[0]["kind"], block[0]["recv_ns"], block[1] = 3, SENT_NS + 1, data[0]
        rows = feed.take(buffer, block)
        assert len(feed.xdp._rows) < 5_000
        assert [row[1] for row in rows] == [*names, "S1"]
        assert prices(rows)[:-1] == [(None, None)] * 5_000


class TestRefresh:
    @pytest.fixture
    def torn(self, feed: Feed) -> Feed:
        feed(packet(mapping(2, "B"), add(10, 1, "B", 99_900, 100), add(11, 2, "S", 100_100, 100)))
        feed.lose()
        return feed

    def refresh(self, *orders: bytes, part: int = 1, parts: int = 1, own: int = 20) -> bytes:
        return packet(refresh_header(part, parts, 500, own), *orders, flag=19, first=9_000 + part)

    def test_the_book_is_what_the_refresh_tells(self, torn: Feed) -> None:
        torn(packet(add(15, 7, "B", 99_950, 1)))  # had in the refresh, or gone since
        orders = add_refresh(1, 1, "B", 99_900, 60), add_refresh(2, 9, "S", 100_200, 30)
        rows = torn(self.refresh(mapping(), status(12, "O"), *orders))
        assert [(row[0], row[4]) for row in rows] == [("status", 500), ("quote", 500)]
        assert prices(rows) == [((999 * CENT, 60), (1_002 * CENT, 30))]
        assert torn.xdp.lost() == []
        assert prices(torn(packet(delete(21, 9)))) == [((999 * CENT, 60), None)]

    def test_live_messages_that_it_holds_are_passed_over(self, torn: Feed) -> None:
        torn(self.refresh(add_refresh(1, 1, "B", 99_900, 60)))
        assert torn(packet(execution(20, 1, 99_900, 40))) == []
        assert torn.xdp.counters()["had_in_refresh"] == 1
        assert [row[0] for row in torn(packet(execution(21, 1, 99_900, 40)))] == ["trade", "quote"]

    def test_one_that_is_older_than_what_was_had_is_none(self, torn: Feed) -> None:
        torn(packet(delete(25, 1)))
        assert torn(self.refresh(add_refresh(1, 1, "B", 99_900, 60))) == []
        assert torn.xdp.lost() == [(0, 1)]
        assert torn.xdp.counters()["refreshes_old"] == 1

    def test_in_parts(self, torn: Feed) -> None:
        assert torn(self.refresh(add_refresh(1, 1, "B", 99_900, 60), parts=2)) == []
        rows = torn(self.refresh(add_refresh(2, 9, "B", 99_900, 5), part=2, parts=2))
        assert prices(rows) == [((999 * CENT, 65), None)]

    def test_a_part_that_is_lost_breaks_it(self, torn: Feed) -> None:
        torn(self.refresh(add_refresh(1, 1, "B", 99_900, 60), parts=3))
        assert torn(self.refresh(add_refresh(2, 9, "B", 99_900, 5), part=3, parts=3)) == []
        assert torn.xdp.counters()["refreshes_broken"] == 1
        assert prices(torn(self.refresh(add_refresh(1, 1, "B", 99_900, 60)))) == [((999 * CENT, 60), None)]

    def test_a_gap_between_its_parts_breaks_it(self, torn: Feed) -> None:
        torn(self.refresh(add_refresh(1, 1, "B", 99_900, 60), parts=2))
        torn.lose(stream=1)
        assert torn(self.refresh(add_refresh(2, 9, "B", 99_900, 5), part=2, parts=2)) == []
        assert torn.xdp.lost() == [(0, 1)]

    def test_a_live_message_between_its_parts_breaks_it(self, torn: Feed) -> None:
        torn(self.refresh(add_refresh(1, 1, "B", 99_900, 60), parts=2))
        torn(packet(delete(21, 9)))
        assert torn(self.refresh(add_refresh(2, 9, "B", 99_900, 5), part=2, parts=2)) == []
        assert torn.xdp.lost() == [(0, 1)]

    def test_a_book_that_is_empty(self, torn: Feed) -> None:
        assert torn(self.refresh(mapping())) == []
        assert torn.xdp.lost() == []

    def test_several_in_one_packet(self, torn: Feed) -> None:
        torn(packet(add(1, 3, "B", 99_900, 1, index=2)))
        torn.lose()
        both = [add_refresh(1, 1, "B", 99_900, 60), refresh_header(1, 1, 500, 20)]
        rows = torn(self.refresh(*both, add_refresh(1, 3, "B", 99_800, 5, index=2)))
        assert prices(rows) == [((999 * CENT, 60), None), ((998 * CENT, 5), None)]

    def test_who_has_lost_nothing_passes_it_over(self, feed: Feed) -> None:
        feed(packet(add(1, 1, "B", 99_900, 100)))
        assert feed(self.refresh(mapping(), add_refresh(1, 5, "B", 99_950, 1))) == []
        assert prices(feed(packet(delete(2, 1)))) == [(None, None)]

    def test_who_comes_late_learns_symbol_and_book(self) -> None:
        feed = Feed()
        rows = feed(self.refresh(mapping(), add_refresh(1, 1, "B", 99_900, 60)))
        assert [row[0] for row in rows] == ["status", "quote"]
        assert prices(feed(packet(add(21, 2, "B", 99_900, 1)))) == [((999 * CENT, 61), None)]

    def test_a_quote_in_a_refresh(self, feed: Feed) -> None:
        feed(packet(quote(1, 1, 1, 2, 1)))
        feed.lose()
        assert prices(feed(self.refresh(mapping(), quote(20, 99_900, 1, 99_950, 1)))) == [
            ((999 * CENT, 1), (99_950 * 10**5, 1))
        ]
        assert feed.xdp.lost() == []


class TestBlocks:
    def test_messages_that_were_had_are_passed_over(self, feed: Feed) -> None:
        buffer, blocks = feed.frame([packet(trade(1, 1, 1, 1), trade(2, 2, 1, 1), trade(3, 3, 1, 1), first=7)])
        blocks["skip"] = 2
        assert [(row[4], row[9]) for row in feed.take(buffer, blocks)] == [(9, 3)]

    def test_a_block_that_lies_gives_what_is_whole(self, feed: Feed) -> None:
        buffer, blocks = feed.frame([packet(trade(1, 1, 1, 1), trade(2, 2, 1, 1))])
        blocks["stop"] -= 1
        assert len(feed.take(buffer, blocks)) == 1
        assert feed.xdp.counters()["malformed_size"] == 1

    def test_more_channels_than_there_is_room_for(self, feed: Feed) -> None:
        buffer, blocks = feed.frame([packet(mapping())])
        for channel in range(1, xdp.STREAMS_MAX + 1):
            blocks["stream"] = channel << 16
            feed.take(buffer, blocks)
        assert feed.xdp.counters()["refused"] == 1

    def test_the_longest_packet_has_room(self, feed: Feed) -> None:
        messages = [execution(i + 2, 1, 100_000, 1) for i in range(255)]
        feed(packet(add(1, 1, "S", 100_000, 1_000)))
        assert len(feed(packet(*messages))) == 510


@recorded
class TestRecorded:
    PACKETS = SAMPLES / "omi_packets" / "Nyse"

    def packets(self, name: str) -> list[bytes]:
        with Capture(self.PACKETS / f"{name}.pcap") as capture:
            return [
                batch.packets.buffer[at : at + length].tobytes()
                for batch in capture
                for at, length in zip(batch.packets.offsets, batch.packets.lengths, strict=True)
            ]

    def test_every_packet_gives_what_the_manifest_says(self) -> None:
        lines = (SAMPLES / "omi_packets" / "MANIFEST.csv").read_text(errors="replace").splitlines()
        told = [line.split(",") for line in lines if line.startswith("Nyse/")]
        assert len(told) == 16
        for path, _, packets, *_, messages in told:
            payloads = self.packets(path.removeprefix("Nyse/").removesuffix(".pcap"))
            feed = Feed()
            buffer, blocks = feed.frame(payloads)
            assert (len(payloads), blocks.size) == (int(packets), int(packets))
            assert blocks["start"].tolist() == (np.cumsum([0, *map(len, payloads)][:-1]) + 16).tolist()
            assert blocks["stop"].tolist() == np.cumsum([len(payload) for payload in payloads]).tolist()
            found: Counter[str] = Counter()
            for block in blocks:
                at = int(block["start"])
                for _ in range(block["count"]):
                    size, kind = struct.unpack_from("<HH", buffer, at)
                    found[f"{kind}/{size}"] += 1
                    at += size
                assert at == block["stop"]
            assert sorted(messages.split()) == sorted(f"{name}x{count}" for name, count in found.items()), path
            feed.take(buffer, blocks)
            counts = feed.xdp.counters()
            assert counts["messages"] == sum(found.values())
            assert (counts["malformed"], counts["unknown"]) == (0, 0)
            types = Counter({xdp.TYPE_NAMES[int(name.split("/")[0])]: count for name, count in found.items()})
            assert feed.xdp.messages_by_type() == types

    def test_a_quote_of_2017_is_38_bytes(self) -> None:
        (payload,) = self.packets("Bbo.Xdp.v2.3a/QuoteMessage")
        feed = Feed()
        feed(packet(mapping(0x19BD, "TEST", scale=4)))
        ((*head, bid, ask, condition),) = feed(payload)
        assert head == ["quote", "TEST", "N", "A", 19_618, 1_507_047_423_767_927_000]  # sent 267 ms later
        assert (bid, ask, condition) == ((10_320_000_000, 300), (10_380_000_000, 100), "R")

    def test_a_mapping_of_2017(self) -> None:
        (payload,) = self.packets("Bbo.Xdp.v2.3a/SymbolIndexMappingMessage")
        ((kind, name, venue, tape, *_, lot, lower, upper, indicator),) = Feed()(payload)
        assert (kind, name, venue, tape, lot) == ("status", "ACP", "N", "A", 100)
        assert (lower, upper, indicator) == (None, None, "")

    def test_a_quote_of_2023_is_34_bytes_and_one_sided(self) -> None:
        (payload,) = self.packets("National.Equities.Bbo.Pillar.v2.5/QuoteMessage")
        feed = Feed()
        feed(packet(mapping(0x3F40, "TEST", market=10, scale=6)))
        (row,) = feed(payload)
        assert row[2] == "C"
        assert row[5] == SECOND * SECOND_NS + 714_240
        assert row[6:] == (None, (40_270_000_000, 100), "R")

    def test_a_refresh_of_one_symbol(self) -> None:
        (payload,) = self.packets("National.Equities.Bbo.Pillar.v2.5/RefreshHeaderMessage")
        feed = Feed()
        mapped, told = feed(payload)
        assert mapped[:5] == ("status", "CVLY", "C", "C", 512_086)
        assert mapped[9] == 100
        assert told[6:9] == ("T", "O", "0")
        assert feed.xdp.lost() == []

    def test_orders_and_trades_of_the_integrated_feed(self) -> None:
        feed = Feed()
        feed(packet(mapping(0x1366, "A", scale=6), mapping(0x6205, "B", scale=6), mapping(0x159A, "C", scale=6)))
        (added,) = feed(*self.packets("IntegratedFeed.Pillar.v2.5/AddOrderMessage"))
        assert added[6:] == ((10_010_000_000, 1_200), None, "R")
        (crossed,) = feed(*self.packets("IntegratedFeed.Pillar.v2.5/CrossTradeMessage"))  # its trade is not printed
        assert crossed[6:] == (9_990_000_000, 100, "@6", 184_796, "", None)
        (executed,) = feed(*self.packets("IntegratedFeed.Pillar.v2.5/OrderExecutionMessage"))
        assert executed[6:] == (10_010_000_000, 100, "@", 68_747, "", None)

    def test_the_imbalance_feed_of_2017(self) -> None:
        path = SAMPLES / "nyse_xdp_imbalances" / "nyse_imbalances_20170929.pcap.gz"
        payloads = [payload for _, payload in naive_iex.udp_payloads(path)]
        assert len(payloads) == 11_819
        feed = Feed(symbols_max=512)
        buffer, blocks = feed.frame(payloads)
        assert blocks.size == 11_819
        assert blocks["first"].tolist() == list(range(1, 11_820))  # no gap
        assert set(blocks["session"].tolist()) == {1}
        rows = feed.take(buffer, blocks)
        assert feed.xdp.messages_by_type() == {
            "imbalance": 10_695,
            "security_status": 902,
            "symbol_index_mapping": 221,
            "sequence_reset": 1,
        }
        counts = feed.xdp.counters()
        assert (counts["malformed"], counts["unknown"], counts["no_mapping"]) == (0, 0, 0)
        assert len({row[1] for row in rows}) == 221
        assert {"ADM", "AHL-C", "LGF.A"} <= {row[1] for row in rows}
        twin = Twin()
        expected = twin(*payloads)
        assert rows == expected
        mapped = set(feed.xdp.state.listings["index"][: feed.xdp.state.used[0]].tolist())
        imbalances = {struct.unpack_from("<I", p, 16 + 12)[0] for p in payloads if p[18] == 105}
        assert imbalances <= mapped


COUNTED = (
    "messages",
    "quotes",
    "trades",
    "trade_breaks",
    "statuses",
    "withdrawn",
    "unknown",
    "no_mapping",
    "no_price",
    "not_printed",
    "unmatched_corrections",
    "refreshes",
    "refreshes_old",
    "refreshes_broken",
    "had_in_refresh",
    "malformed_message",
    "orders_duplicate",
    "orphans",
    "overdrawn",
)


def random_payload(rng: random.Random, own: dict[int, int], mutate: bool) -> bytes:
    """A packet, live or of a refresh; where told, with bytes changed and its end cut off."""
    is_refresh = rng.random() < 0.15
    messages = [random_message(rng, own) for _ in range(rng.randint(1, 8))]
    if is_refresh and rng.random() < 0.9:
        index = rng.choice(INDEXES)
        header = refresh_header(1, rng.choice([1, 1, 2]), 55, max(0, own.get(index, 0) + rng.choice([0, 0, 1, -1, 3])))
        orders = [add_refresh(1, rng.randrange(1, 60), rng.choice("BS"), 100_000, 100, index) for _ in range(3)]
        messages = [header, *orders, *messages[: rng.randint(0, 2)]]
    if not is_refresh and rng.random() < 0.005:
        messages.insert(0, reset(rng.randrange(1000)))
    sent_ns = SENT_NS + rng.choice([0, 0, SECOND_NS // 2])
    data = bytearray(packet(*messages, flag=19 if is_refresh else 11, first=rng.randrange(1 << 31), sent_ns=sent_ns))
    if mutate:
        for _ in range(rng.choice([0, 1, 1, 3])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
    return bytes(data)


@pytest.mark.parametrize("mutate", [False, True], ids=["sound", "mutated"])
@pytest.mark.parametrize("decode", [xdp_kernel.decode, xdp_kernel.decode.py_func], ids=["compiled", "python"])
def test_random_packets_give_what_the_twin_gives(decode, mutate: bool) -> None:
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    total = random_count(20_000) // 4 if decode is xdp_kernel.decode else 200
    done = 0
    while done < total:
        feed, twin, own = Feed(decode), Twin(), dict[int, int]()
        start = packet(*(mapping(index, name) for index, name in zip(INDEXES, NAMES, strict=True)))
        for line in (0, 2):
            assert feed(start, line=line) == twin(start, line=line)
        for _ in range(min(100, total)):
            if rng.random() < 0.05:
                stream, restart = rng.choice([0, 0, 1, 1 << 16]), rng.random() < 0.2
                assert feed.lose(stream, restart) == twin.lose(stream, restart), f"seed {seed}"
                if restart:
                    assert feed(start) == twin(start), f"seed {seed}"
            payloads = [random_payload(rng, own, mutate) for _ in range(5)]
            line = rng.choice([0, 0, 0, 2])
            assert feed(*payloads, line=line) == twin(*payloads, line=line), f"seed {seed}"
            done += len(payloads)
        counts = feed.xdp.counters()
        assert {name: counts[name] for name in COUNTED} == {n: twin.xdp.counters[n] for n in COUNTED}, f"seed {seed}"
        assert counts["lost_books"] == sum(listing.lost for listing in twin.xdp.listings.values()), f"seed {seed}"


@pytest.mark.timeout(0)
def test_no_mutation_crashes_or_costs_the_next_packet() -> None:
    """In bulk, without the twin: rows stay sound, and another channel hears every word of its own."""
    rng, own = random.Random(seed := random.randrange(1 << 32)), dict[int, int]()
    start = packet(*(mapping(index, name) for index, name in zip(INDEXES, NAMES, strict=True)))
    samples = [start, *(random_payload(rng, own, mutate=False) for _ in range(5_000))]
    sound = packet(mapping(7, "ZZ"), trade(1, 5, 1, 2, index=7), trade(2, 6, 1, 2, index=7))
    symbols = SymbolTable(256)
    symbols.intern("ZZ")
    wire = xdp.Xdp(symbols, orders_max=512, levels_max=128)
    mutations = mutation.Mutations(seed, samples, sound)
    counts = mutation.fuzz("nyse-pillar", wire, symbols, mutations, random_count(20_000), SENT_NS + 1, "ZZ")
    seen = ("malformed_short", "malformed_length", "malformed_flag", "malformed_message", "unknown")
    assert min(counts[name] for name in seen) > 0
    assert counts["packets"] > 20_000


def test_a_symbol_table_of_another_feed_is_shared() -> None:
    symbols = SymbolTable(8)
    first, second = xdp.Xdp(symbols, orders_max=8, levels_max=8), xdp.Xdp(symbols, orders_max=8, levels_max=8)
    for wire in (first, second):
        buffer, blocks = Feed().frame([packet(mapping())])
        assert sum(rows.size for rows in wire.decode(buffer, blocks)) == 1
    assert symbols.names() == ["", "ACP"]
