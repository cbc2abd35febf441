"""The slow, obvious twins of the processors: plain dicts and big integers, everything computed anew each time.

They are written from the rules, not from the kernels. Both take rows as the nodes do and return a list of
dicts, one for each published row, with the columns that the node is responsible for.
"""

import importlib.util
import sys
import types
from collections.abc import Callable, Iterable
from datetime import date, datetime, timedelta
from fractions import Fraction
from functools import cache
from typing import Any
from unittest.mock import patch
from zoneinfo import ZoneInfo

from fabric.clock import SECOND_NS
from fabric.records import (
    DTYPES,
    KIND_BOLO,
    KIND_GAP,
    KIND_LINK,
    KIND_NBBO,
    KIND_QUOTE,
    KIND_STATUS,
    KIND_TRADE,
    KIND_WHY,
    NULL,
    Rows,
    unpack,
)

MINUTE_NS = 60 * SECOND_NS
LENGTHS_NS = (MINUTE_NS, 5 * MINUTE_NS, 60 * MINUTE_NS, 24 * 60 * MINUTE_NS)
DAY = 3
"""The place of a day in it, which is one of New York and may have 23 or 25 hours."""

Row = dict[str, int]


def uncompiled(*names: str) -> list[types.ModuleType]:
    """Import kernel modules once more as plain Python; a later one sees the earlier ones."""
    plain = types.ModuleType("fabric.compiled")
    for decorator in ("kernel", "waiting_kernel", "inlined", "lean_kernel", "lean"):
        setattr(plain, decorator, lambda function: function)
    native = types.ModuleType("fabric.native")
    native.prefetch = lambda address: None  # type: ignore[attr-defined]
    made: dict[str, types.ModuleType] = {"fabric.compiled": plain, "fabric.native": native}
    with patch.dict(sys.modules, made):
        for name in names:
            spec = importlib.util.find_spec(name)
            assert spec is not None
            assert spec.loader is not None
            made[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(made[name])
            sys.modules[name] = made[name]
    return [made[name] for name in names]


def as_dicts(rows: Rows) -> list[Row]:
    """Rows of mixed kinds, each with the columns of its kind."""
    named = {kind: rows.view(DTYPES[kind]) for kind in set(rows["kind"].tolist())}
    return [
        {name: value for name, value in zip(row.dtype.names, row.item(), strict=True) if not name.startswith("_")}
        for row in (named[kind][i] for i, kind in enumerate(rows["kind"].tolist()))
    ]


def mask_of(letters: Iterable[str]) -> int:
    return sum(1 << (ord(letter) - ord("A")) for letter in set(letters))


# The condition tables once more, a line for each row of the plans' tables, and the rule "any no wins".

QUOTES = {
    "cta": dict.fromkeys(" ABHORW", "bo") | dict.fromkeys("Ee", "o") | dict.fromkeys("Ff", "b"),
    "utp": dict.fromkeys(" ABHORY", "bo") | {"e": "o", "f": "b"},
}
"""Plan -> code -> sides that count; other codes: none."""
SLOW = {"cta": {"A": "o", "B": "b", "H": "bo", "W": "bo"}, "utp": {"A": "o", "B": "b", "H": "bo"}}
"""Of those that count, the sides that are slow."""
PLAN = {"A": "cta", "B": "cta", "C": "utp"}
SALES = {
    "CTA": {
        "@": "hlv", "E": "hlv", "F": "hlv", "K": "hlv", "O": "hlv", "X": "hlv", "5": "hlv", "6": "hlv",
        "P": "h1v", "Z": "h1v", "4": "h1v", "L": "hsv", "9": "hl",
        "B": "v", "C": "v", "H": "v", "I": "v", "R": "v", "T": "v", "U": "v", "V": "v", "7": "v",
        "M": "c", "Q": "o",
    },
    "UTP": {
        "@": "hlv", "A": "hlv", "B": "hlv", "D": "hlv", "F": "hlv", "K": "hlv", "O": "hlv", "S": "hlv", "X": "hlv",
        "Y": "hlv", "1": "hlv", "5": "hlv", "6": "hlv", "G": "h1v", "P": "h1v", "Z": "h1v", "4": "h1v", "L": "hev",
        "9": "hl",
        "C": "v", "H": "v", "I": "v", "R": "v", "T": "v", "U": "v", "V": "v", "W": "v", "7": "v",
        "M": "c", "Q": "o",
    },
}  # fmt: skip
"""h: open, high and low; v: volume; l: last; 1: last as the day's first; s: last as CTA's note 3 says; e: last until
ten seconds after the close; o, c: official open or close.
"""
NEW_YORK = ZoneInfo("America/New_York")


def quote_sides(condition: str, plan: str | None = "cta") -> set[str]:
    """The sides that count; without a plan those that count in both."""
    if plan is None:
        return quote_sides(condition, "cta") & quote_sides(condition, "utp")
    return set("bo").intersection(*(QUOTES[plan].get(code, "") for code in condition))


def slow_sides(condition: str, plan: str | None) -> set[str]:
    plans = [plan] if plan else ["cta", "utp"]
    return {side for plan in plans for code in condition for side in SLOW[plan].get(code, "")}


def sale_rights(condition: str, tape: str = "", ns: int = 0, venue: str = "") -> set[str]:
    """What a trade updates: h, v, and at most one of l, 1 and s; o or c alone for an official print."""
    table = SALES["UTP" if tape == "C" else "CTA"]
    codes = [code for code in condition if code != " "] or ["@"]
    rights = [table.get(code, "v") for code in codes]
    printed = {"o", "c"}.intersection(rights)
    if len(printed) == 1 and all(code in table for code in codes):
        return printed
    allowed = {right for right in "hv" if all(right in r for r in rights)}
    levels = []  # of each code: 3 always, 2 note 3, 1 the first only, 0 never
    for r in rights:
        level = 3 if "l" in r else 2 if "s" in r else 1 if "1" in r else 0
        if "e" in r:
            level = 3 if not after_hours(ns) else 0
        levels.append(level)
    if min(levels) == 2 and {"A": "N"}.get(tape) == venue:
        return allowed | {"l"}
    return allowed | {0: set(), 1: {"1"}, 2: {"s"}, 3: {"l"}}[min(levels)]


def after_hours(ns: int) -> bool:
    """Whether it is later than 16:00:10 in New York, on a weekday that is none of the holidays that tests use."""
    at = datetime.fromtimestamp(ns // SECOND_NS, NEW_YORK)
    if at.weekday() > 4 or at.date() in HOLIDAYS:
        return False
    close = datetime(at.year, at.month, at.day, 13 if at.date() in HALF_DAYS else 16, 0, 10, tzinfo=NEW_YORK)
    return ns > int(close.timestamp()) * SECOND_NS


HOLIDAYS = {date(2026, 1, 1), date(2026, 11, 26), date(2018, 1, 1)}
HALF_DAYS = {date(2026, 11, 27)}


class NaiveNbbo:
    """The composite: every venue's last quote in a dict, judged and sorted at every row."""

    def __init__(
        self, venues: str, publishers: tuple[str, ...], lot: int = 100, market: str = "", beside: bool = False
    ) -> None:
        """``beside``: tell the best odd lots and who is left out, too."""
        self.venues, self.publishers, self.default_lot = venues, publishers, lot
        self.market, self.beside = set(market), beside
        self.quotes: dict[int, dict[str, dict[str, Any]]] = {}  # symbol -> venue -> its last quote
        self.tapes: dict[int, str] = {}
        self.lots: dict[int, int] = {}
        self.shut: dict[int, set[str]] = {}
        self.halting: dict[int, set[str]] = {}
        self.bands: dict[int, tuple[int, int]] = {}
        self.lost: dict[int, set[str]] = {}
        self.last: dict[int, Row] = {}  # the trade that set the last price
        self.shown: dict[int, tuple[Any, int]] = {}
        self.shown_odd: dict[int, Any] = {}
        self.explained: set[int] = set()
        self.met = 0
        self.line_down: set[str] = set()
        self.link_down: set[str] = set()
        self.closed: set[str] = set()
        self.live: set[str] = set()
        self.arrivals = 0

    def step(self, rows: Rows) -> list[Row]:
        out: list[Row] = []
        for row in as_dicts(rows):
            {KIND_QUOTE: self._quote, KIND_TRADE: self._trade, KIND_STATUS: self._status, KIND_LINK: self._link}.get(
                row["kind"], lambda row, out: None
            )(row, out)
        return out

    def _quote(self, row: Row, out: list[Row]) -> None:
        venue, symbol = chr(row["venue"]), row["symbol"]
        if venue not in self.venues or venue in self.line_down | self.link_down | self.closed:
            return
        self.arrivals += 1
        self.met = max(self.met, symbol)
        self._learn_tape(row)
        plan = self.tapes.get(symbol)
        condition = unpack(row["condition"]) or " "
        sides, slow = quote_sides(condition, plan), slow_sides(condition, plan)
        before = self._reasons(symbol)
        fresh = venue not in self.quotes.setdefault(symbol, {})
        self.quotes[symbol][venue] = {
            name: (row[f"{name}_px"], row[f"{name}_size"], letter in sides, letter in slow)
            if row[f"{name}_px"] > 0 and 0 < row[f"{name}_size"] < 2**31
            else None
            for name, letter in (("bid", "b"), ("ask", "o"))
        } | {"arrival": self.arrivals}
        self.lost.setdefault(symbol, set()).discard(venue)
        self._show(symbol, row, out, force=False)
        self._show_odd(symbol, row, out)
        after = self._reasons(symbol)
        of_quotes = ("bid_condition", "ask_condition", "bid_odd_lot", "ask_odd_lot", "bid_slow", "ask_slow")
        if any(before[name] != after[name] for name in of_quotes) or (fresh and symbol in self.explained):
            self._explain(symbol, row, out)

    def _learn_tape(self, row: Row) -> None:
        if unpack(row["tape"]) in PLAN:
            self.tapes[row["symbol"]] = PLAN[unpack(row["tape"])]

    def _trade(self, row: Row, out: list[Row]) -> None:
        if unpack(row["mark"]) or row["price"] <= 0:
            return
        rights = sale_rights(unpack(row["condition"]), unpack(row["tape"]), row["event_ns"], chr(row["venue"]))
        last = self.last.get(row["symbol"])
        if last is not None and day_of(last["event_ns"]) != day_of(row["event_ns"]):
            last = None
        same = last is not None and last["venue"] == row["venue"]
        if "l" in rights or (rights & {"1", "s"} and last is None) or ("s" in rights and same):
            self.last[row["symbol"]] = row

    def _status(self, row: Row, out: list[Row]) -> None:
        venue, symbol, trading = chr(row["venue"]), row["symbol"], unpack(row["trading"])
        if symbol == 0:
            self._venue_status(venue, trading, unpack(row["venue_state"]), row, out)
            return
        self.met = max(self.met, symbol)
        self._learn_tape(row)
        before = self._reasons(symbol)
        halting, shut = self.halting.setdefault(symbol, set()), self.shut.setdefault(symbol, set())
        if trading in {"T", "H", "P", "Q", "S", "C"}:
            halting.discard(venue)
            shut.discard(venue)
        if trading in {"H", "P", "Q"} and unpack(row["reason"]) not in {"OPER", "I", "X"}:
            halting.add(venue)
        elif trading in {"H", "P", "Q", "S", "C"} and venue in self.venues:
            shut.add(venue)
        if row["round_lot"] > 0:
            self.lots[symbol] = row["round_lot"]
        if venue in {"S", "E"}:
            self.bands[symbol] = (row["upper_px"], row["lower_px"])
        self._show(symbol, row, out, force=False)
        self._show_odd(symbol, row, out)
        after = self._reasons(symbol)
        if {**before, "lost": 0, "closed": 0} != {**after, "lost": 0, "closed": 0}:
            self._explain(symbol, row, out)

    def _venue_status(self, venue: str, event: str, state: str, row: Row, out: list[Row]) -> None:
        if venue not in self.venues:
            return
        if state == "live":
            self.line_down.discard(venue)
            self.live.add(venue)
        if event in {"O", "S", "Q", "R"} or (state == "live" and not event):
            self.closed.discard(venue)
        if state == "stale":
            self._down(self.line_down, {venue}, row, out)
        elif event in {"E", "C"}:
            self._down(self.closed, {venue}, row, out)

    def _link(self, row: Row, out: list[Row]) -> None:
        venues = set(self.publishers[row["publisher"]])
        if row["up"] == 1:
            self.link_down -= venues
        else:
            self._down(self.link_down, venues, row, out)

    def _down(self, down: set[str], venues: set[str], row: Row, out: list[Row]) -> None:
        leaving = venues - self.line_down - self.link_down - self.closed
        down |= venues
        if down is not self.closed:
            self.live -= venues
        if not leaving and not venues & set(self.market):
            return  # nobody's values change: a market that has become whole shows with the next message of a symbol
        for symbol in range(1, self.met + 1):
            quotes = self.quotes.setdefault(symbol, {})
            gone = venues & set(quotes)
            for venue in gone:
                del quotes[venue]
            if gone and down is not self.closed:
                self.lost[symbol] |= gone
            if gone and down is not self.line_down:
                self.halting.setdefault(symbol, set()).difference_update(gone)
                self.shut.setdefault(symbol, set()).difference_update(gone)
            self._show(symbol, row, out, force=bool(gone))
            if gone:
                self._show_odd(symbol, row, out)
                self._explain(symbol, row, out)

    def _is_odd(self, symbol: int, side: Any) -> bool:
        return side is not None and side[2] and side[1] < self.lots.get(symbol, self.default_lot)

    def _best(self, symbol: int, name: str, odd: bool) -> tuple[str, int, int] | None:
        sign = -1 if name == "bid" else 1
        present = {
            venue: (sign * quote[name][0], -quote[name][1], quote["arrival"])
            for venue, quote in self.quotes.get(symbol, {}).items()
            if quote[name] is not None
            and quote[name][2]
            and self._is_odd(symbol, quote[name]) == odd
            and venue not in self.shut.get(symbol, set())
        }
        if not present:
            return None
        venue = min(present, key=lambda v: present[v])
        return (venue, sign * present[venue][0], -present[venue][1])

    def _state(self, symbol: int, bid: Any, ask: Any) -> int:
        quotes, lost = self.quotes.get(symbol, {}), bool(self.lost.get(symbol))
        upper, lower = self.bands.get(symbol, (NULL, NULL))
        upper = 2**63 if upper == NULL else upper
        names = {
            "locked": bid is not None and ask is not None and bid[1] == ask[1],
            "crossed": bid is not None and ask is not None and bid[1] > ask[1],
            "one_sided": (bid is None) != (ask is None),
            "halted": bool(self.halting.get(symbol)),
            "stale": lost and not quotes,
            "partial": lost and bool(quotes),
            "luld": (bid is not None and not lower <= bid[1] < upper)
            or (ask is not None and not lower < ask[1] <= upper),
            "slow": any(best and quotes[best[0]][side][3] for side, best in (("bid", bid), ("ask", ask))),
            "national": bool(self.market) and not lost and bool(quotes) and self.market <= self.live,
        }
        return sum(2**place for place, holds in enumerate(names.values()) if holds)

    def _row(self, kind: int, symbol: int, row: Row) -> Row:
        times = {name: row[name] for name in ("exchange_seq", "event_ns", "recv_ns", "feed_ns")}
        return {"kind": kind, "symbol": symbol, "venue": 0} | times

    def _show(self, symbol: int, row: Row, out: list[Row], force: bool) -> None:
        quotes = self.quotes.get(symbol, {})
        bid, ask = (self._best(symbol, name, odd=False) for name in ("bid", "ask"))
        state = self._state(symbol, bid, ask)
        if not force and self.shown.get(symbol, ((None, None), 0)) == ((bid, ask), state):
            return
        self.shown[symbol] = ((bid, ask), state)
        published = self._row(KIND_NBBO, symbol, row) | {"last_px": self.last.get(symbol, {"price": NULL})["price"]}
        for name, best in (("bid", bid), ("ask", ask)):
            published[f"{name}_venue"] = ord(best[0]) if best else NULL
            published[f"{name}_px"] = best[1] if best else NULL
            published[f"{name}_size"] = best[2] if best else NULL
            at_best = [
                venue
                for venue, quote in quotes.items()
                if best
                and quote[name] is not None
                and quote[name][0] == best[1]
                and quote[name][2]
                and not self._is_odd(symbol, quote[name])
                and venue not in self.shut.get(symbol, set())
            ]
            published[f"{name}_mask"] = mask_of(at_best)
            published[f"{name}_total"] = sum(quotes[venue][name][1] for venue in at_best) if best else NULL
        out.append(published | {"state": state, "scope": mask_of(quotes)})

    def _show_odd(self, symbol: int, row: Row, out: list[Row]) -> None:
        found: dict[str, int] = {}
        for name, sign in (("bid", 1), ("ask", -1)):
            odd, best = self._best(symbol, name, odd=True), self._best(symbol, name, odd=False)
            if odd is not None and best is not None and sign * odd[1] <= sign * best[1]:
                odd = None
            found[f"{name}_venue"] = ord(odd[0]) if odd else NULL
            found[f"{name}_px"] = odd[1] if odd else NULL
            found[f"{name}_size"] = odd[2] if odd else NULL
        if found != self.shown_odd.get(symbol, dict.fromkeys(found, NULL)):
            self.shown_odd[symbol] = found
            if self.beside:
                out.append(self._row(KIND_BOLO, symbol, row) | found)

    def _reasons(self, symbol: int) -> Row:
        quotes = self.quotes.get(symbol, {})
        found = {"round_lot": self.lots.get(symbol, self.default_lot)}
        for name in ("bid", "ask"):
            present = {venue: quote[name] for venue, quote in quotes.items() if quote[name] is not None}
            may = {venue for venue, side in present.items() if side[2]}
            found[f"{name}_condition"] = mask_of(set(present) - may)
            found[f"{name}_odd_lot"] = mask_of(v for v in may if self._is_odd(symbol, present[v]))
            found[f"{name}_slow"] = mask_of(v for v in may if present[v][3])
        upper, lower = self.bands.get(symbol, (NULL, NULL))
        sets = {"shut": self.shut, "lost": self.lost, "halting": self.halting}
        found |= {name: mask_of(by_symbol.get(symbol, set())) for name, by_symbol in sets.items()}
        return found | {"closed": mask_of(self.closed), "upper_px": upper, "lower_px": lower}

    def _explain(self, symbol: int, row: Row, out: list[Row]) -> None:
        if self.beside:
            self.explained.add(symbol)
            out.append(self._row(KIND_WHY, symbol, row) | self._reasons(symbol))


class NaiveCandles:
    """The candles: every trade is kept, and each bar that is published is computed from all of them."""

    def __init__(
        self,
        publishers: tuple[str, ...],
        monotonic_ns: Callable[[], int],
        event_time: bool = False,
        publish_every_ns: int = SECOND_NS,
        grace_ns: int = SECOND_NS,
        horizon_ns: int = 15 * MINUTE_NS,
        silence_ns: int = 2_500_000_000,
    ) -> None:
        self.publishers, self.monotonic_ns, self.event_time = publishers, monotonic_ns, event_time
        self.publish_every_ns, self.grace_ns = publish_every_ns, grace_ns
        self.horizon_ns, self.silence_ns = horizon_ns, silence_ns
        self.time: int | None = None
        self.trades: list[dict[str, Any]] = []  # with `rights`; what was cancelled is gone
        self.closing: dict[int, set[int]] = {}  # symbol -> its `closing_trades`, until they change
        self.official: dict[tuple[int, date, str], dict[str, Any]] = {}
        self.bars: dict[tuple[int, int, int], dict[str, Any]] = {}  # (length, start, symbol), by their first trade
        self.down_since: dict[tuple[str, str], float] = {}
        self.since: float = float("-inf")
        if not event_time:
            self.down_since = {("link", venue): float("-inf") for venues in publishers for venue in venues}
        self.outages: list[tuple[str, float, float]] = []  # venue, from, to
        self.losses: list[tuple[int, float, float]] = []  # symbol, from, to
        self.venues: dict[int, set[str]] = {}
        self.stepped_ns = self.published_ns = monotonic_ns()

    def step(self, rows: Rows, now_ns: int) -> list[Row]:
        out: list[Row] = []
        monotonic_ns = self.monotonic_ns()
        self.oldest_ns = 0 if self.event_time else now_ns - self.horizon_ns
        self.now_ns = float("inf") if self.event_time else now_ns
        if self.time is not None:
            carried_ns = self.time + monotonic_ns - self.stepped_ns
            if self.event_time:
                carried_ns = self.time if rows.size else now_ns
            self._advance(carried_ns, out)
        self.stepped_ns = monotonic_ns
        for row in as_dicts(rows):
            believed = self.event_time or row["event_ns"] <= now_ns + 5 * SECOND_NS
            if row["kind"] == KIND_TRADE:
                self._trade(row, now_ns, believed, out)
            elif row["kind"] == KIND_STATUS:
                if believed and row["event_ns"] > 0:
                    self._hear(row["event_ns"], out)
                state, venue = unpack(row["venue_state"]), chr(row["venue"])
                if row["symbol"] == 0 and state in {"stale", "live"}:
                    self._line("venue", venue, state == "live")
                elif row["symbol"] == 0 and state == "gap" and self.time is not None:
                    self.outages.append((venue, self.time - self.silence_ns, self.time))
            elif row["kind"] == KIND_LINK:
                if self.time is None and not self.event_time:
                    self.since = now_ns
                for venue in self.publishers[row["publisher"]]:
                    self._line("link", venue, row["up"] == 1)
            elif row["kind"] == KIND_GAP and row["channel_kind"] == KIND_TRADE:
                self._lose(row["symbol"])
        if monotonic_ns - self.published_ns >= self.publish_every_ns:
            self.published_ns = monotonic_ns
            for key in self._order(lambda key, bar: bar["changed"] and not bar["closed"] and key[0] < DAY):
                if self.time is not None and key[1] <= self.time:
                    self._publish(key, out)
        return out

    def _order(self, wanted: Callable[[Any, dict[str, Any]], bool]) -> list[tuple[int, int, int]]:
        """Bars by length, then start, then first trade."""
        return sorted((key for key, bar in self.bars.items() if wanted(key, bar)), key=lambda key: key[:2])

    def _line(self, reason: str, venue: str, up: bool) -> None:
        key = (reason, venue)
        if up and key in self.down_since:
            since = self.down_since.pop(key)
            if self.time is not None:
                self.outages.append((venue, since, self.time))
        elif not up and key not in self.down_since:
            self.down_since[key] = float("-inf") if self.time is None else self.time - self.silence_ns

    def _lose(self, symbol: int) -> None:
        if self.time is not None:
            self.losses.append((symbol, self.time - self.silence_ns, self.time))

    def _is_final(self, ns: int) -> bool:
        assert self.time is not None
        return span_of(0, ns)[1] + self.horizon_ns <= self.time

    def _trade(self, row: Row, now_ns: int, believed: bool, out: list[Row]) -> None:
        mark = unpack(row["mark"])
        wrong = row["price"] <= 0 or not 0 < row["size"] < 2**31
        if row["event_ns"] <= 0 or row["symbol"] == 0 or (not mark and wrong):
            return
        ns = row["event_ns"]
        if not believed:
            ns = now_ns if self.time is None else self.time
        self._hear(ns, out)
        if mark:
            self._undo(row, mark, wrong, out)
            return
        made: dict[str, Any] = row | {"event_ns": ns}
        made["rights"] = self._rights(made, row)
        if made["rights"] & {"o", "c"}:
            self._official(made, out)
        elif made["rights"] and not self._is_final(ns):
            before = self._closes(row["symbol"])
            self.trades.append(made)
            self.closing.pop(row["symbol"], None)
            self.venues.setdefault(row["symbol"], set()).add(chr(row["venue"]))
            self._revise(made, before, out)

    def _rights(self, trade: dict[str, Any], told: Row) -> set[str]:
        return sale_rights(unpack(told["condition"]), unpack(told["tape"]), trade["event_ns"], chr(trade["venue"]))

    def _undo(self, row: Row, mark: str, wrong: bool, out: list[Row]) -> None:
        same = [t for t in self.trades if all(t[name] == row[name] for name in ("symbol", "venue"))]
        # The latest minute first, in it the last to arrive.
        same = sorted(
            (t for t in same if t["trade_id"] == row["original_id"] != NULL and not self._is_final(t["event_ns"])),
            key=lambda t: t["event_ns"] // MINUTE_NS,
        )
        if not same or (mark == "c" and wrong):
            self._lose(row["symbol"])
            return
        trade = same[-1]
        before = self._closes(row["symbol"])
        if mark == "c":
            trade["price"], trade["size"] = row["price"], row["size"]
            if row["trade_id"] != NULL:
                trade["trade_id"] = row["trade_id"]
            if unpack(row["condition"]):
                trade["rights"] = self._rights(trade, row) - {"o", "c"}
        if mark == "x" or not trade["rights"]:
            self.trades = [t for t in self.trades if t is not trade]
        self.closing.pop(row["symbol"], None)
        self._revise(trade, before, out)

    def _closes(self, symbol: int) -> dict[int, int]:
        """The close of each minute of a symbol in which a trade depends on those before it."""
        made: dict[int, list[dict[str, Any]]] = {}
        for trade in self.trades:
            if trade["symbol"] == symbol:
                made.setdefault(trade["event_ns"] // MINUTE_NS, []).append(trade)
        depends = [m for m, trades in made.items() if any(t["rights"] & {"1", "s"} for t in trades)]
        return {minute: self._bar(symbol, 0, minute * MINUTE_NS)["close_px"] for minute in depends}

    def _revise(self, trade: dict[str, Any], before: dict[int, int], out: list[Row]) -> None:
        """Note or publish the minute of a trade, then each later minute whose close changed with it."""
        assert self.time is not None
        minute = trade["event_ns"] // MINUTE_NS
        after = self._closes(trade["symbol"])
        changed = [m for m in sorted(after) if m > minute and before[m] != after[m]]
        for ns in [trade["event_ns"], *(m * MINUTE_NS for m in changed)]:
            for k in range(len(LENGTHS_NS)):
                start, end = span_of(k, ns)
                key = (k, start, trade["symbol"])
                closed = end + self.grace_ns <= self.time
                bar = self.bars.setdefault(key, {"rev": 0, "final": False, "closed": closed, "changed": True})
                if bar["closed"]:
                    bar["rev"] += 1
                    self._publish(key, out)
                else:
                    bar["changed"] = True

    def _official(self, trade: dict[str, Any], out: list[Row]) -> None:
        """The latest of the listing market (of any where that is not known) is the day's."""
        assert self.time is not None
        start, end = span_of(DAY, trade["event_ns"])
        listing = {"A": "N", "C": "Q"}.get(unpack(trade["tape"]))
        if end + self.horizon_ns <= self.time or (listing and listing != chr(trade["venue"])):
            return
        which = "".join(trade["rights"])
        for other in self.official:
            before = other[0] == trade["symbol"] and other[2] == which and other[1] != day_of(start)
            if before and span_of(DAY, self.official[other]["event_ns"])[1] + self.horizon_ns > self.time:
                return
        key = (trade["symbol"], day_of(start), which)
        if key in self.official and moment(trade) < moment(self.official[key]):
            return
        self.official[key] = trade
        bar = self.bars.get((DAY, start, trade["symbol"]))
        if bar and bar["closed"]:
            bar["rev"] += 1
            self._publish((DAY, start, trade["symbol"]), out)

    def _hear(self, ns: int, out: list[Row]) -> None:
        """An exchange tells the time: it is never later than by our own clock."""
        self._advance(int(min(ns, self.now_ns)), out)

    def _advance(self, ns: int, out: list[Row]) -> None:
        self.time = max(ns, self.oldest_ns if self.time is None else self.time)
        due = []
        for first, (key, bar) in enumerate(self.bars.items()):
            end = span_of(key[0], key[1])[1]
            if not bar["closed"]:
                due.append((end + self.grace_ns, 0, key[0], first, key))
            if not bar["final"]:
                due.append((end + self.horizon_ns, 1, key[0], first, key))
        closing: list[tuple[int, int, int]] = []
        for deadline, finishing, _, _, key in sorted(due):
            if deadline > self.time:
                break
            if closing and (finishing or key[:2] != closing[0][:2]):
                self._publish_days(closing, out)
            bar = self.bars[key]
            if finishing:
                bar["final"] = True
            else:
                bar["closed"] = True
                bar["rev"] += 1
                if key[0] == 0:
                    closing.append(key)
            self._publish(key, out)
        self._publish_days(closing, out)

    def _publish_days(self, minutes: list[tuple[int, int, int]], out: list[Row]) -> None:
        """With the minutes that closed together, the days of their symbols."""
        for _, start, symbol in minutes:
            self._publish((DAY, span_of(DAY, start)[0], symbol), out)
        minutes.clear()

    def _bar(self, symbol: int, k: int, start: int) -> Row:
        """The bar of the trades of an interval, given what the day's trades before them were."""
        end = span_of(k, start)[1]
        of_symbol = [t for t in self.trades if t["symbol"] == symbol]
        if symbol not in self.closing:
            self.closing[symbol] = closing_trades(of_symbol)
        return bar_of([t for t in of_symbol if start <= t["event_ns"] < end], self.closing[symbol])

    def _publish(self, key: tuple[int, int, int], out: list[Row]) -> None:
        k, start, symbol = key
        bar, end = self.bars[key], span_of(key[0], key[1])[1]
        bar["changed"] = False
        row = self._bar(symbol, k, start)
        if k == DAY:
            opening = self.official.get((symbol, day_of(start), "o"))
            closing = self.official.get((symbol, day_of(start), "c"))
            row["official_open_px"] = opening["price"] if opening else NULL
            row["official_close_px"] = closing["price"] if closing else NULL
            if opening and unpack(opening["tape"]) != "C":
                row["open_px"] = opening["price"]
        venues = self.venues[symbol]
        spans = [(a, b) for venue, a, b in self.outages if venue in venues]
        spans += [(since, float("inf")) for (_, venue), since in self.down_since.items() if venue in venues]
        spans += [(a, b) for lost, a, b in self.losses if lost == symbol]
        gap = start < self.since or any(a < end and start <= b for a, b in spans)
        row |= {"kind": 5 + k, "symbol": symbol, "venue": 0, "event_ns": start, "rev": bar["rev"]}
        out.append(row | {"final": int(bar["final"]), "gap": int(gap)})


def span_of(k: int, ns: int) -> tuple[int, int]:
    """Start and end of the interval of a length that holds ``ns``; a day goes from midnight to midnight in New York."""
    if k < DAY:
        start = ns // LENGTHS_NS[k] * LENGTHS_NS[k]
        return start, start + LENGTHS_NS[k]
    return _span_of_day(day_of(ns))


@cache
def _span_of_day(day: date) -> tuple[int, int]:
    at, after = (datetime(d.year, d.month, d.day, tzinfo=NEW_YORK) for d in (day, day + timedelta(1)))
    return int(at.timestamp()) * SECOND_NS, int(after.timestamp()) * SECOND_NS


def day_of(ns: int) -> date:
    return _day_of_hour(ns // (60 * MINUTE_NS))


@cache
def _day_of_hour(hour: int) -> date:
    return datetime.fromtimestamp(hour * 3_600, NEW_YORK).date()


def moment(trade: dict[str, Any]) -> tuple[int, int, int]:
    return trade["event_ns"], trade["exchange_seq"], trade["venue"]


def closing_trades(trades: list[dict[str, Any]]) -> set[int]:
    """Those of a symbol's trades that set the last price, each day by itself, by their identity."""
    found = set()
    day, last = None, None
    for trade in sorted(trades, key=moment):
        if day_of(trade["event_ns"]) != day:
            day, last = day_of(trade["event_ns"]), None
        rights = trade["rights"]
        same = last is not None and last["venue"] == trade["venue"]
        if "l" in rights or (rights & {"1", "s"} and last is None) or ("s" in rights and same):
            found.add(id(trade))
            last = trade
    return found


def bar_of(trades: list[dict[str, Any]], closing: set[int]) -> Row:
    """The bar of these trades, given in the order of arrival; ``closing`` are those that set the last price."""

    def with_right(right: str) -> list[dict[str, Any]]:
        return sorted((t for t in trades if right in t["rights"]), key=moment)

    priced, counted = with_right("h"), with_right("v")
    close = sorted((t for t in trades if id(t) in closing), key=moment)
    weighed = [t for t in priced if "v" in t["rights"]]
    shares = sum(t["size"] for t in weighed)
    value = sum(t["price"] * t["size"] for t in weighed)
    return {
        "open_px": priced[0]["price"] if priced else NULL,
        "high_px": max((t["price"] for t in priced), default=NULL),
        "low_px": min((t["price"] for t in priced), default=NULL),
        "close_px": close[-1]["price"] if close else NULL,
        "volume": sum(t["size"] for t in counted),
        "trades": len(counted),
        "vwap_px": int(Fraction(value, shares) + Fraction(1, 2)) if shares else NULL,
        "last_ns": max((t["event_ns"] for t in trades), default=NULL),
    }
