"""An independent, plain reading of both consolidated tapes: struct and dicts, written from the specification tables.

The slow, obvious twin of `nodes.feeds.cta_block_kernel`, `cta_kernel` and `utp_kernel`. Rows are dicts of what a row
of the bus would say; a price is in millionths of a dollar, None where there is none.
"""

import struct
from dataclasses import dataclass, field
from typing import Any

MILLIONTHS_MAX = 2_250_000 * 10**6
SHARES_SINCE_NS = 1_762_128_000 * 10**9  # 2025-11-03

# What each letter of CQS's NBBO indicator says of (best bid, best offer).
CQS_SAYS = {
    "A": ("same", "same"), "B": ("same", "quote"), "C": ("same", "short"), "D": ("same", "long"), "E": ("same", "none"),
    "F": ("quote", "same"), "G": ("quote", "quote"), "H": ("quote", "short"), "I": ("quote", "long"),
    "J": ("quote", "none"), "K": ("none", "same"), "L": ("none", "quote"), "M": ("none", "short"),
    "N": ("none", "long"), "O": ("none", "none"), "P": ("short", "same"), "Q": ("long", "same"),
    "R": ("short", "quote"), "S": ("long", "quote"), "T": ("short", "short"), "U": ("long", "long"),
    "V": ("short", "none"), "W": ("long", "none"),
}  # fmt: skip
UQDF_SAYS = {"1": "none", "2": "short", "3": "long", "4": "quote"}


class BadMessageError(Exception):
    """Not readable: it is counted and passed over."""


def cta_blocks(payload: bytes) -> tuple[str, list[bytes]] | None:
    """(feed, messages) of one block, or None when it cannot be believed."""
    if len(payload) < 20 or payload[3:4] not in (b"Q", b"T"):
        return None
    size = struct.unpack_from(">H", payload, 1)[0]
    if size < 20 or size > len(payload):
        return None
    body = payload[:size]
    if (sum(body) - body[18] - body[19]) % 65536 != struct.unpack_from(">H", body, 18)[0]:
        return None
    if struct.unpack_from(">I", body, 14)[0] >= 10**9:
        return None
    found, at = [], 20
    while len(found) < body[9] and at + 4 <= size:
        length = struct.unpack_from(">H", body, at)[0]
        if length < 4 or at + length > size:
            break
        found.append(body[at : at + length])
        at += length
    return chr(body[3]), found


def price(value: int) -> int | None:
    return value if 0 < value <= MILLIONTHS_MAX else None


def text(raw: bytes) -> str:
    try:
        stripped = raw.decode("ascii").rstrip(" ")
    except UnicodeDecodeError:
        return ""
    return stripped if stripped.isprintable() else ""


def symbol(raw: bytes) -> str:
    name = raw.rstrip(b" \0")
    if not name or any(c <= 32 or c > 126 or c == ord("|") for c in name):
        raise BadMessageError
    return name.decode()


def venue(code: int) -> str:
    if not ord("A") <= code <= ord("Z"):
        raise BadMessageError
    return chr(code)


def conditions(raw: bytes) -> str:
    return "".join(chr(c) for c in raw if 32 < c < 127) or "@"


Side = tuple[int, int, str] | None


@dataclass
class NaiveTape:
    """What is known of each symbol, and the rows so far."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    official: dict[str, dict[str, Side]] = field(default_factory=dict)
    changes: list[tuple[str, int, Side, Side]] = field(default_factory=list)
    known: dict[str, dict[str, Any]] = field(default_factory=dict)
    bad: int = 0
    lot: int = 1
    sequence: int = 0

    def state(self, name: str) -> dict[str, Any]:
        blank = dict.fromkeys(("trading", "reason", "indicator", "short_sale"), "")
        return self.known.setdefault(name, {**blank, "upper": None, "lower": None, "lot": None})

    def side(self, px: int | None, size: int) -> tuple[int, int] | None:
        return (px, size * self.lot) if px is not None and size else None

    def status(self, name: str, who: str, **over: Any) -> None:
        self.rows.append({"kind": "status", "symbol": name, "venue": who, **self.state(name), **over})

    def quote(self, name: str, who: str, bid: Any, ask: Any, condition: str) -> None:
        row = {"kind": "quote", "symbol": name, "venue": who, "bid": bid, "ask": ask, "condition": condition}
        self.rows.append(row)

    def trade(self, name: str, who: str, px: int | None, size: int, **more: Any) -> None:
        if px is not None and size > 0:
            self.rows.append({"kind": "trade", "symbol": name, "venue": who, "price": px, "size": size, **more})

    def say(self, name: str, bid: Any, ask: Any) -> None:
        """Take a new official bid or ask; "same" leaves it."""
        sides = self.official.setdefault(name, {})
        before = dict(sides)
        if bid != "same":
            sides["bid"] = bid
        if ask != "same":
            sides["ask"] = ask
        if sides != before and len(sides) == 2:
            self.changes.append((name, self.sequence, sides["bid"], sides["ask"]))

    # CQS and CTS

    def cta(self, body: bytes) -> None:
        """Apply one message of CQS or CTS."""
        try:
            self._cta(body)
        except (BadMessageError, struct.error, IndexError):
            self.bad += 1

    def _cta(self, body: bytes) -> None:
        kind = body[2:4].decode("latin-1")
        need = {"QL": 87, "QQ": 41, "TL": 72, "TR": 76, "TT": 40, "TH": 42, "TX": 78, "TE": 82, "TC": 97, "TO": 105}
        need |= {"TS": 76, "AS": 209, "ML": 28}
        if kind not in need:
            return
        if len(body) < need[kind]:
            raise BadMessageError
        if struct.unpack_from(">I", body, 9)[0] >= 10**9:
            raise BadMessageError
        if kind == "ML":
            self._breaker("S", body[26:27])
            return
        who = venue(body[4])
        name = symbol(body[26 : 31 if kind in ("QQ", "TT", "TH") else 37])
        reference = struct.unpack_from(">q", body, 18)[0]
        if kind in ("QL", "QQ"):
            self._cta_quote(body, kind, name, who)
        elif kind == "TS":
            self._cta_status(body, name, who)
        elif kind == "AS":
            state = self.state(name)
            state["lot"] = struct.unpack_from(">H", body, 65)[0]
            state["short_sale"] = text(body[76:77]) or "0"
            if text(body[77:78]):
                state["trading"], state["reason"] = "H", text(body[77:78])
            self.status(name, who)
        elif kind in ("TT", "TH"):
            cents, volume = struct.unpack_from(">HH" if kind == "TT" else ">HI", body, 33)
            shares = volume // 10**6 if kind == "TH" else volume
            condition = text(body[31:32]) or "@"
            self.trade(
                name, who, price(cents * 10**4), shares, condition=condition, id=reference, mark="", original=None
            )
        else:
            fraction = kind in ("TR", "TE", "TO")
            px, volume = struct.unpack_from(">qQ" if fraction else ">qI", body, 42)
            shares = (volume // 10**6 if volume < 2**63 else 0) if fraction else volume
            wider = 4 * fraction
            more: dict[str, Any] = {"id": reference, "mark": "", "original": None}
            if kind in ("TX", "TE"):
                more = {"id": None, "mark": "x", "original": struct.unpack_from(">q", body, 58 + wider)[0]}
            elif kind in ("TC", "TO"):
                more = {"id": reference, "mark": "c", "original": struct.unpack_from(">q", body, 67 + wider)[0]}
            self.trade(name, who, price(px), shares, condition=conditions(body[38:42]), **more)

    def _breaker(self, who: str, level: bytes) -> None:
        """A level of the market-wide circuit breaker: the processor's own status, of no symbol."""
        if level not in (b"1", b"2", b"3"):
            raise BadMessageError
        blank = NaiveTape().state("")
        self.rows.append({"kind": "status", "symbol": "", "venue": who, **blank, "reason": f"MWC{level.decode()}"})

    def _cta_quote(self, body: bytes, kind: str, name: str, who: str) -> None:
        is_long = kind == "QL"
        head = 87 if is_long else 41
        bid_says, ask_says = CQS_SAYS.get(chr(body[head - 1]), ("same", "same"))
        bytes_of = {"long": 18, "short": 5}
        if len(body) < head + bytes_of.get(bid_says, 0) + bytes_of.get(ask_says, 0):
            raise BadMessageError
        if is_long:
            bid_px, bid_size, ask_px, ask_size = struct.unpack_from(">qIqI", body, 40)
        else:
            bid_px, bid_size, ask_px, ask_size = struct.unpack_from(">HHHH", body, 31)
            bid_px, ask_px = bid_px * 10**4, ask_px * 10**4
        bid, ask = self.side(price(bid_px), bid_size), self.side(price(ask_px), ask_size)
        status = chr(body[39]) if is_long else " "
        state = self.state(name)
        if status in "09":
            state["lower"], state["upper"], state["indicator"] = price(bid_px), price(ask_px), status
            self.status(name, who)
            bid = ask = None
        else:
            condition = text(body[38:39]) if is_long else "R"
            raw = condition.encode() or b"\0"
            if is_long and status not in " 123":
                raw = b"N" + raw
            if is_long and body[84:85] in (b"A", b"B"):
                raw = (b"e" if body[84:85] == b"A" else b"f") + raw
            self.quote(name, who, bid, ask, raw.rstrip(b"\0").decode("latin-1"))
            if is_long:
                self._cta_learn(state, name, who, status, text(body[80:81]) or "0")
        at, says = head, []
        for side, word in ((bid, bid_says), (ask, ask_says)):
            if word == "long":
                px, size = struct.unpack_from(">qI", body, at + 2)
                told = self.side(price(px), size)
                says.append((*told, chr(body[at])) if told else None)
                at += 18
            elif word == "short":
                cents, size = struct.unpack_from(">HH", body, at + 1)
                told = self.side(price(cents * 10**4), size)
                says.append((*told, chr(body[at])) if told else None)
                at += 5
            else:
                own = (*side, who) if side else None
                says.append({"same": "same", "none": None, "quote": own}[word])
        self.say(name, *says)

    def _cta_learn(self, state: dict[str, Any], name: str, who: str, status: str, short_sale: str) -> None:
        news = short_sale != state["short_sale"] and (state["short_sale"], short_sale) != ("", "0")
        state["short_sale"] = short_sale
        if status == "T":
            news |= state["trading"] != "T"
            if state["trading"] != "T":
                state["trading"], state["reason"] = "T", ""
        elif status not in " G" and 32 < ord(status) < 127:
            news |= (state["trading"], state["reason"]) != ("H", status)
            state["trading"], state["reason"] = "H", status
        if news:
            self.status(name, who)

    def _cta_status(self, body: bytes, name: str, who: str) -> None:
        state = self.state(name)
        short_sale = text(body[72:73]) or "0"
        news, state["short_sale"] = short_sale != state["short_sale"], short_sale
        code = chr(body[70])
        if code == "2":
            state["trading"], state["reason"] = "H", text(body[71:72])
        elif code == "3":
            state["trading"], state["reason"] = "T", ""
        elif code == "F":
            state["upper"], state["lower"] = (price(px) for px in struct.unpack_from(">qq", body, 46))
            state["indicator"] = text(body[75:76])
        if news or code in "23F":
            self.status(name, who)

    # UQDF and UTDF

    def utp(self, body: bytes) -> None:
        """Apply one message of UQDF or UTDF."""
        try:
            self._utp(body)
        except (BadMessageError, struct.error, IndexError):
            self.bad += 1

    def _utp(self, body: bytes) -> None:
        if len(body) < 3:
            raise BadMessageError
        kind = body[1:3].decode("latin-1")
        need = {"QE": 48, "QF": 79, "QC": 52, "QD": 83, "TM": 67, "TN": 81, "TA": 61, "TW": 77, "TZ": 76, "TO": 80}
        need |= {"TY": 102, "TP": 110, "AH": 59, "AK": 50, "AB": 90, "AV": 41, "AP": 65, "AD": 30}
        if kind not in need:
            return
        if len(body) < need[kind]:
            raise BadMessageError
        sip_ns, time_ns = struct.unpack_from(">qq", body, 5)
        if kind == "AD":
            if not 0 <= sip_ns <= 2**62:
                raise BadMessageError
            self._breaker("E", body[29:30])
            return
        if min(sip_ns, time_ns) < 0 or max(sip_ns, time_ns) > 2**62:
            raise BadMessageError
        self.lot = 1 if sip_ns >= SHARES_SINCE_NS else 100
        who = venue(body[49 if kind == "AK" else 3])
        at = 37 if kind[0] == "T" or kind in ("QF", "QD") else 29
        name = symbol(body[at : at + (5 if kind in ("QE", "QC", "TM", "TA") else 11)])
        if kind[0] == "Q":
            self._utp_quote(body, kind, name, who, need[kind])
        elif kind[0] == "T":
            self._utp_trade(body, kind, name, who)
        else:
            self._utp_status(body, kind, name, who)

    def _utp_quote(self, body: bytes, kind: str, name: str, who: str, head: int) -> None:
        is_long = kind in ("QF", "QD")
        says = UQDF_SAYS.get(chr(body[76 if is_long else 46]), "same")
        if len(body) < head + {"short": 11, "long": 27}.get(says, 0):
            raise BadMessageError
        if is_long:
            bid_px, bid_size, ask_px, ask_size = struct.unpack_from(">qIqI", body, 48)
        else:
            bid_px, bid_size, ask_px, ask_size = struct.unpack_from(">HHHH", body, 34)
            bid_px, ask_px = bid_px * 10**4, ask_px * 10**4
        bid, ask = self.side(price(bid_px), bid_size), self.side(price(ask_px), ask_size)
        condition = text(body[72:73] if is_long else body[42:43])
        outside = chr(body[74] if is_long else body[44])
        self.quote(name, who, bid, ask, {"A": "e", "B": "f", "C": "N"}.get(outside, "") + condition)
        if says == "quote":
            self.say(name, (*bid, who) if bid else None, (*ask, who) if ask else None)
        elif says == "none":
            self.say(name, None, None)
        elif says != "same":
            layout, unit = (">xcqIcqI", 1) if says == "long" else (">xcHHcHH", 10**4)
            bid_venue, bid_px, bid_size, ask_venue, ask_px, ask_size = struct.unpack_from(layout, body, head)
            best_bid = self.side(price(bid_px * unit), bid_size)
            best_ask = self.side(price(ask_px * unit), ask_size)
            self.say(
                name,
                (*best_bid, bid_venue.decode("latin-1")) if best_bid else None,
                (*best_ask, ask_venue.decode("latin-1")) if best_ask else None,
            )

    def _utp_trade(self, body: bytes, kind: str, name: str, who: str) -> None:
        if kind in ("TA", "TM"):
            trade_id, cents = struct.unpack_from(">qH", body, 42)
            volume, raw = struct.unpack_from(">H4s" if kind == "TA" else ">Q4s", body, 52)
            shares = volume if kind == "TA" else (volume // 10**6 if volume < 2**63 else 0)
            more: dict[str, Any] = {"id": trade_id, "mark": "", "original": None}
            self.trade(name, who, price(cents * 10**4), shares, condition=conditions(raw), **more)
            return
        fraction = kind in ("TN", "TO", "TP")
        at = {"TW": 48, "TN": 48, "TZ": 49, "TO": 49, "TY": 75, "TP": 79}[kind]
        trade_id, px, volume, raw = struct.unpack_from(">qqQ4s" if fraction else ">qqI4s", body, at)
        shares = (volume // 10**6 if volume < 2**63 else 0) if fraction else volume
        more = {"id": trade_id, "mark": "", "original": None}
        if kind in ("TZ", "TO"):
            more = {"id": None, "mark": "x", "original": trade_id}
        elif kind in ("TY", "TP"):
            more = {"id": trade_id, "mark": "c", "original": struct.unpack_from(">q", body, 48)[0]}
        self.trade(name, who, price(px), shares, condition=conditions(raw), **more)

    def _utp_status(self, body: bytes, kind: str, name: str, who: str) -> None:
        state, code = self.state(name), text(body[40:41])
        if kind == "AK":
            self.status(name, who, trading=code, reason="OPER")
            return
        if kind == "AH":
            state["trading"], state["reason"] = code, text(body[53:59])
        elif kind == "AB":
            state["lot"] = struct.unpack_from(">H", body, 87)[0]
        elif kind == "AV":
            state["short_sale"] = code
        else:
            state["indicator"] = code
            state["lower"], state["upper"] = (price(px) for px in struct.unpack_from(">qq", body, 49))
        self.status(name, who)
