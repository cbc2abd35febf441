"""Messages of CQS and CTS (the CTA plan's consolidated tape, binary) -> rows, compiled (pure).

Every message begins with 26 bytes: length u16 @0 (its own), category @2, type @3, participant @4, time (seconds u32 @5,
nanoseconds u32 @9), number in its block u8 @13, transaction u32 @14, participant's reference i64 @18. Offsets below
are from the first byte of the message; integers big-endian.

Sources: CQS and CTS 2.11b, ``protocols.md`` 5.2 and 5.4; for what that leaves out (TX, TC, TH, TE, TO, AS, and the
letters of the NBBO indicator) the Open Markets Initiative's definitions of the same versions, and the recorded
packets.
"""

from typing import Any

import numpy as np

from fabric.compiled import lean, lean_kernel
from fabric.records import EVENT, NBBO, NULL, empty, pack
from fabric.symbols import SymbolTable
from nodes.feeds import tape_kernel as tape
from nodes.feeds.rows_kernel import CANCELS, CORRECTS, Stamp, new_out, put_quote
from nodes.feeds.tape_kernel import IS_QUOTE, KEEPS, LONG_FORM, NO_SIDE, SHORT_FORM
from nodes.feeds.wire_kernel import BLOCK, DATA, GAP, RESTART, be16, be32, be64, u8

HEADER_BYTES = 26
BREAKER_BYTES = 28
ROW_BYTES_MIN = BREAKER_BYTES
"""A row comes from no less than this of a block; a long quote (87) may give two."""
LONG_APPENDAGE_BYTES = 18
SHORT_APPENDAGE_BYTES = 5

_QL, _QQ = ord("Q") << 8 | ord("L"), ord("Q") << 8 | ord("Q")
_TR = ord("T") << 8 | ord("R")
_TT, _TH = ord("T") << 8 | ord("T"), ord("T") << 8 | ord("H")
_TX, _TE = ord("T") << 8 | ord("X"), ord("T") << 8 | ord("E")
_TC, _TO = ord("T") << 8 | ord("C"), ord("T") << 8 | ord("O")
_TS, _AS = ord("T") << 8 | ord("S"), ord("A") << 8 | ord("S")
_ML = ord("M") << 8 | ord("L")

_HALTED, _TRADING = pack("H"), pack("T")
_OFF = pack("0")
_REGULAR = pack("R")
_NO_CONDITION = pack("@")
_TAPE_A, _TAPE_B = pack("A"), pack("B")
_BLANK, _RESUME = ord(" "), ord("T")
_BAND, _BAND_AGAIN = ord("0"), ord("9")
_NYSE = ord("N")
_PROCESSOR = ord("S")
_NOT_FIRM, _OFFER_ONLY, _BID_ONLY = ord("N"), ord("e"), ord("f")
_BID_OUTSIDE, _OFFER_OUTSIDE = ord("A"), ord("B")


def _says() -> tuple[Any, Any]:
    """What each letter of the NBBO indicator says of the best bid and of the best offer.

    A to E, F to J, K to O: the bid is as it was, this quote's, none; within each the offer is as it was, this
    quote's, in a short appendage, in a long one, none. P to W have the bid in an appendage, short and long in turn:
    with P and Q the offer is as it was, R and S this quote's, T and U in an appendage of the same form, V and W none.
    """
    bids, offers = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for i in range(15):
        bids[65 + i] = (KEEPS, IS_QUOTE, NO_SIDE)[i // 5]
        offers[65 + i] = (KEEPS, IS_QUOTE, SHORT_FORM, LONG_FORM, NO_SIDE)[i % 5]
    for i in range(8):
        form = (SHORT_FORM, LONG_FORM)[i % 2]
        bids[80 + i] = form
        offers[80 + i] = (KEEPS, IS_QUOTE, form, NO_SIDE)[i // 2]
    return bids, offers


_BID_SAYS, _OFFER_SAYS = _says()


LAYOUTS = tape.new_layouts(
    {  # bytes read, symbol at and bytes, listing market at
        "QL": (87, 26, 11, 81),
        "QQ": (41, 26, 5, 39),
        "TL": (72, 26, 11, 67),
        "TR": (76, 26, 11, 71),
        "TT": (40, 26, 5, 37),
        "TH": (42, 26, 5, 39),
        "TX": (78, 26, 11, 76),
        "TE": (82, 26, 11, 80),
        "TC": (97, 26, 11, 95),
        "TO": (105, 26, 11, 103),
        "TS": (76, 26, 11, 73),
        "AS": (209, 26, 11, 48),
    },
    {
        "A": "ABCDH",  # summaries begin and end, free text
        "C": "ACLMNOPTZ",  # control: start and end of day, FINRA open and close, number reset, line integrity
        "I": "IQ",  # indices
        "M": "KLMNOPV",  # circuit breaker levels and (read by `breaker_message`) status, volumes, crossing session
        "P": "CELORX",  # trades of other days
        "Q": "A",  # auction collar, on both feeds
        "S": "ABCDPT",  # summaries
        "T": "A",
    },
)


@lean
def short_sale_of(data: Any, at: int) -> int:
    """The short-sale restriction as the tape says it (A C D E); ``0`` for blank, which is not in effect."""
    said = tape.letter(data, at)
    return said if said else _OFF


@lean
def tape_of(primary: int) -> int:
    """Tape A is what NYSE lists, B what all other markets of this plan list; undefined where it is not said."""
    if primary == _NYSE:
        return _TAPE_A
    return _TAPE_B if tape.is_venue(primary) else 0


@lean
def quote_message(
    state: Any,
    data: Any,
    at: int,
    size: int,
    is_long: bool,
    stamp: Any,
    unit: int,
    stream: int,
    out: Any,
    n: int,
    log: Any,
) -> int:
    """QL and QQ: a participant's whole best bid and offer, and what it does to the official NBBO."""
    head = 87 if is_long else 41
    indicator = u8(data, at + head - 1)
    bid_says = _BID_SAYS[indicator]
    offer_says = _OFFER_SAYS[indicator]
    offer_at = head
    if bid_says == LONG_FORM:
        offer_at += LONG_APPENDAGE_BYTES
    elif bid_says == SHORT_FORM:
        offer_at += SHORT_APPENDAGE_BYTES
    wanted = offer_at
    if offer_says == LONG_FORM:
        wanted += LONG_APPENDAGE_BYTES
    elif offer_says == SHORT_FORM:
        wanted += SHORT_APPENDAGE_BYTES
    if size < wanted:
        state.counters[tape.MESSAGE] += 1
        return 0
    sides = at + (40 if is_long else 31)
    bid_px = tape.read_price(state.counters, data, sides, is_long)
    ask_px = tape.read_price(state.counters, data, sides + (12 if is_long else 4), is_long)
    bid_size = (be32(data, sides + 8) if is_long else be16(data, sides + 2)) * unit
    ask_size = (be32(data, sides + 20) if is_long else be16(data, sides + 6)) * unit
    condition = _REGULAR
    status = _BLANK
    if is_long:
        condition = tape.letter(data, at + 38)
        status = u8(data, at + 39)
    known = state.symbols[stamp.symbol]
    told = 0
    if status == _BAND or status == _BAND_AGAIN:  # the prices are bands and not a quote
        known["lower_px"] = bid_px
        known["upper_px"] = ask_px
        known["indicator"] = status
        bid_px = NULL
        ask_px = NULL
        told = tape.tell_status(state, stamp, known["trading"], known["reason"], out.statuses[n])
    else:
        if bid_px == NULL or bid_size == 0:
            bid_px = NULL
            bid_size = NULL
        if ask_px == NULL or ask_size == 0:
            ask_px = NULL
            ask_size = NULL
        if is_long:
            if status != _BLANK and not 49 <= status <= 51:  # any but a market-wide breaker: not eligible
                condition = condition << 8 | _NOT_FIRM
            outside = data[at + 84]
            if outside == _BID_OUTSIDE:
                condition = condition << 8 | _OFFER_ONLY
            elif outside == _OFFER_OUTSIDE:
                condition = condition << 8 | _BID_ONLY
        put_quote(out.quotes[n], stamp, bid_px, bid_size, ask_px, ask_size, condition)
        tape.note_quote(state, stamp.symbol, stamp.venue, stream)
        known["tape"] = stamp.tape
        state.counters[tape.QUOTES] += 1
        told = 1
        if is_long and learn(known, status, short_sale_of(data, at + 80)):
            told += tape.tell_status(state, stamp, known["trading"], known["reason"], out.statuses[n + 1])
    if bid_says != KEEPS or offer_says != KEEPS:
        official = state.official[stamp.symbol]
        bid_at = at + head
        ask_at = at + offer_at
        changed = tape.state_side(
            state.counters, official, np.int64(0), bid_says, bid_px, bid_size, stamp.venue, data,
            bid_at, bid_at + (2 if bid_says == LONG_FORM else 1), unit,
        )  # fmt: skip
        changed |= tape.state_side(
            state.counters, official, np.int64(1), offer_says, ask_px, ask_size, stamp.venue, data,
            ask_at, ask_at + (2 if offer_says == LONG_FORM else 1), unit,
        )  # fmt: skip
        if changed:
            tape.log_official(state, stamp, log)
    return told


@lean
def learn(known: Any, status: int, short_sale: int) -> bool:
    """Take what a long quote tells of the symbol beside its prices; say whether that is news.

    The first "no restriction" is none: it is what every symbol begins with.
    """
    news = short_sale != known["short_sale"] and not (known["short_sale"] == 0 and short_sale == _OFF)
    known["short_sale"] = short_sale
    if status == _RESUME:
        if known["trading"] != _TRADING:
            known["trading"] = _TRADING
            known["reason"] = 0
            news = True
    elif status != _BLANK and status != 71 and 32 < status < 127:  # 71 is G, a trading range indication
        if known["trading"] != _HALTED or known["reason"] != status:
            known["trading"] = _HALTED
            known["reason"] = status
            news = True
    return news


@lean_kernel
def status_message(state: Any, data: Any, at: int, stamp: Any, row: Any) -> int:
    """TS: halt (2), resume (3), price bands (F); the others tell no more than the short-sale restriction."""
    known = state.symbols[stamp.symbol]
    status = data[at + 70]
    short_sale = short_sale_of(data, at + 72)
    news = short_sale != known["short_sale"]
    known["short_sale"] = short_sale
    if status == 50:  # 2
        known["trading"] = _HALTED
        known["reason"] = tape.letter(data, at + 71)
        news = True
    elif status == 51:  # 3
        known["trading"] = _TRADING
        known["reason"] = 0
        news = True
    elif status == 70:  # F
        known["upper_px"] = tape.read_price(state.counters, data, at + 46, True)
        known["lower_px"] = tape.read_price(state.counters, data, at + 54, True)
        known["indicator"] = tape.letter(data, at + 75)
        news = True
    if not news:
        return 0
    return tape.tell_status(state, stamp, known["trading"], known["reason"], row)


@lean_kernel
def reference_message(state: Any, data: Any, at: int, stamp: Any, row: Any) -> int:
    """AS: the symbol's directory of the day: round lot, short-sale restriction, whether it is halted."""
    known = state.symbols[stamp.symbol]
    known["round_lot"] = be16(data, at + 65)
    known["short_sale"] = short_sale_of(data, at + 76)
    reason = tape.letter(data, at + 77)
    if reason:
        known["trading"] = _HALTED
        known["reason"] = reason
    return tape.tell_status(state, stamp, known["trading"], known["reason"], row)


@lean_kernel
def breaker_message(state: Any, data: Any, at: int, size: int, sequence: int, block: Any, row: Any) -> int:
    """ML: a level of the market-wide circuit breaker was breached."""
    fraction_ns = be32(data, at + 9)
    if size < BREAKER_BYTES or fraction_ns >= 1_000_000_000:
        state.counters[tape.MESSAGE] += 1
        return 0
    event_ns = be32(data, at + 5) * 1_000_000_000 + fraction_ns
    if event_ns == 0:
        event_ns = block["sent_ns"]
    return tape.tell_breaker(state, _PROCESSOR, u8(data, at + 26), sequence, event_ns, block["recv_ns"], row)


@lean
def trade_message(state: Any, data: Any, at: int, kind: int, is_fraction: bool, stamp: Any, row: Any) -> int:
    """TL, TR, TT, TH (a trade), TX, TE (one is withdrawn), TC, TO (one is corrected; what it should be is first)."""
    mark: Any = NULL
    original_id: Any = NULL
    trade_id: Any = be64(data, at + 18)
    if kind == _TT or kind == _TH:  # one condition, which says itself in which slot it stands
        px = tape.read_price(state.counters, data, at + 33, False)
        shares = tape.read_shares(state.counters, data, at + 35, -4 if is_fraction else 2)
        condition = tape.letter(data, at + 31)
        if condition == 0:
            condition = _NO_CONDITION
    else:
        px = tape.read_price(state.counters, data, at + 42, True)
        shares = tape.read_shares(state.counters, data, at + 50, 8 if is_fraction else 4)
        condition = tape.conditions(data, at + 38)
        wider = 4 if is_fraction else 0
        if kind == _TX or kind == _TE:
            mark = CANCELS
            trade_id = NULL
            original_id = be64(data, at + 58 + wider)
        elif kind == _TC or kind == _TO:
            mark = CORRECTS
            original_id = be64(data, at + 67 + wider)
    return tape.tell_trade(state, stamp, px, shares, condition, trade_id, mark, original_id, row)


@lean
def message(
    symbols: Any,
    state: Any,
    data: Any,
    at: int,
    size: int,
    sequence: int,
    block: Any,
    unit: int,
    out: Any,
    n: int,
    log: Any,
) -> int:
    """Apply one message; write its rows from ``n``; return how many."""
    state.counters[tape.MESSAGES] += 1
    kind = be16(data, at + 2)
    state.types[kind] += 1
    wanted = state.layouts[kind, tape.READ]
    if wanted <= 0:
        if wanted == 0:
            state.counters[tape.UNKNOWN] += 1
        elif size < HEADER_BYTES:
            state.counters[tape.MESSAGE] += 1
        elif kind == _ML:
            return breaker_message(state, data, at, size, sequence, block, out.statuses[n])
        return 0
    if size < wanted:
        state.counters[tape.MESSAGE] += 1
        return 0
    venue = u8(data, at + 4)
    fraction_ns = be32(data, at + 9)
    if not tape.is_venue(venue) or fraction_ns >= 1_000_000_000:
        state.counters[tape.MESSAGE] += 1
        return 0
    event_ns = be32(data, at + 5) * 1_000_000_000 + fraction_ns
    if event_ns == 0:
        event_ns = block["sent_ns"]
    name_at = at + state.layouts[kind, tape.NAME_AT]
    symbol = tape.read_symbol(symbols, data, name_at, state.layouts[kind, tape.NAME_BYTES])
    if symbol < 0:
        state.counters[tape.REFUSED if symbol == -1 else tape.MESSAGE] += 1
        return 0
    primary = u8(data, at + state.layouts[kind, tape.PRIMARY_AT])
    is_fraction = kind == _TR or kind == _TH or kind == _TE or kind == _TO
    stamp = Stamp(np.int64(symbol), venue, tape_of(primary), np.int64(sequence), event_ns, np.int64(block["recv_ns"]))
    if kind == _QL or kind == _QQ:
        return quote_message(state, data, at, size, kind == _QL, stamp, unit, block["stream"], out, n, log)
    if kind == _TS:
        return status_message(state, data, at, stamp, out.statuses[n])
    if kind == _AS:
        return reference_message(state, data, at, stamp, out.statuses[n])
    return trade_message(state, data, at, kind, is_fraction, stamp, out.trades[n])


@lean_kernel
def decode(buffer: Any, blocks: Any, first: int, symbols: Any, state: Any, out: Any, log: Any) -> tuple[int, int]:
    """Decode blocks from number ``first``; return the first not taken and the rows written to ``out``.

    Stops early, before a block whose rows or changes of the official NBBO might not fit: empty ``out`` and ``log`` and
    call again. Both must hold the rows of the longest block: its bytes // ROW_BYTES_MIN + 1.
    """
    n: Any = np.int64(0)
    i = first
    while i < blocks.size:
        block = blocks[i]
        kind = block["kind"]
        if kind == RESTART:
            if state.cursor[0] == 0:
                if log.used[0] >= log.rows.size:
                    break
                tape.forget_official(state, block, log)
            n = tape.withdraw(state, block, tape.ALL_VENUES, out, n)
            if state.cursor[0] != 0:
                break
        elif kind == GAP:
            if log.used[0] >= log.rows.size:
                break
            tape.forget_official(state, block, log)
        elif kind == DATA:
            room = (block["stop"] - block["start"]) // ROW_BYTES_MIN + 1
            if n + room > out.quotes.size or log.used[0] + room > log.rows.size:
                break
            unit = tape.unit_at(state.units, block["sent_ns"])
            at = block["start"]
            for number in range(block["count"]):
                size = be16(buffer, at)
                if number >= block["skip"]:
                    n += message(symbols, state, buffer, at, size, block["first"] + number, block, unit, out, n, log)
                at += size
        i += 1
    return i, n


def warm_up() -> None:
    """Compile or load the decoder with the live array types; there is no block."""
    out, log = new_out(empty(1, EVENT)), tape.new_log(empty(1, NBBO))
    state = tape.new_state(2, np.zeros((1, 2), np.int64), LAYOUTS)
    decode(np.zeros(1, np.uint8), np.zeros(0, BLOCK), 0, SymbolTable(2).arrays, state, out, log)
