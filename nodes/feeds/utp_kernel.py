"""Messages of UQDF and UTDF (the UTP plan's consolidated tape of what Nasdaq lists, binary) -> rows, compiled (pure).

Messages come in MoldUDP64, each behind its length. They begin with 29 bytes: version @0, category @1, type @2,
originator @3, sub-market @4, the processor's time u64 @5, the participant's time u64 @13 (0: none), token @21; times
are nanoseconds since 1970 UTC. Offsets below are from the version byte; integers big-endian.

Sources: UTP binary output 1.5 and 3.0, ``protocols.md`` 6; for what that leaves out (administrative messages, TA, TW,
TZ, TY, TO, TP, QC, QD) the Open Markets Initiative's definitions of the same versions, and the recorded packets.
"""

from typing import Any

import numpy as np

from fabric.compiled import lean, lean_kernel
from fabric.records import EVENT, NBBO, NULL, empty, pack
from fabric.symbols import SymbolTable
from nodes.feeds import tape_kernel as tape
from nodes.feeds.rows_kernel import CANCELS, CORRECTS, Stamp, new_out, put_quote
from nodes.feeds.tape_kernel import IS_QUOTE, KEEPS, LONG_FORM, NO_SIDE, SHORT_FORM
from nodes.feeds.wire_kernel import BLOCK, DATA, GAP, RESTART, be16, be32, be64, text, u8

HEADER_BYTES = 29
BREAKER_BYTES = 30
ROW_BYTES_MIN = 2 + BREAKER_BYTES
"""A row comes from no less than this of a block."""
LONG_APPENDAGE_BYTES = 27
SHORT_APPENDAGE_BYTES = 11

_QF, _QD = ord("Q") << 8 | ord("F"), ord("Q") << 8 | ord("D")
_TA = ord("T") << 8 | ord("A")
_TM, _TN = ord("T") << 8 | ord("M"), ord("T") << 8 | ord("N")
_TZ, _TO = ord("T") << 8 | ord("Z"), ord("T") << 8 | ord("O")
_TY, _TP = ord("T") << 8 | ord("Y"), ord("T") << 8 | ord("P")
_AH, _AK = ord("A") << 8 | ord("H"), ord("A") << 8 | ord("K")
_AB, _AV = ord("A") << 8 | ord("B"), ord("A") << 8 | ord("V")
_AD = ord("A") << 8 | ord("D")

_WIPE_OUT = ord("C") << 8 | ord("P")
_PROCESSOR = ord("E")

_TAPE_C = pack("C")
_NOT_FIRM, _OFFER_ONLY, _BID_ONLY = (ord(c) for c in "Nef")
_BID_OUTSIDE, _OFFER_OUTSIDE, _BOTH_OUTSIDE = (ord(c) for c in "ABC")
_HERE_ALONE = pack("OPER")
_NONE, _SHORT, _LONG, _WHOLE = (ord(c) for c in "1234")  # 0 is no change


LAYOUTS = tape.new_layouts(
    {  # bytes read, symbol at and bytes; no listing market
        "QE": (48, 29, 5, 0),
        "QF": (79, 37, 11, 0),
        "QC": (52, 29, 5, 0),
        "QD": (83, 37, 11, 0),
        "TA": (61, 37, 5, 0),
        "TW": (77, 37, 11, 0),
        "TM": (67, 37, 5, 0),
        "TN": (81, 37, 11, 0),
        "TZ": (76, 37, 11, 0),
        "TO": (80, 37, 11, 0),
        "TY": (102, 37, 11, 0),
        "TP": (110, 37, 11, 0),
        "AH": (59, 29, 11, 0),
        "AK": (50, 29, 11, 0),
        "AB": (90, 29, 11, 0),
        "AV": (41, 29, 11, 0),
        "AP": (65, 29, 11, 0),
    },
    {
        "A": "ACDERUZ",  # text, circuit breaker levels and (read by `breaker_message`) status, auction collar, closes
        "C": "CIJOPSXZ",  # control: day, session, transmissions, wipe-out, end of trade reporting and of eligibility
        "Q": "ABM",  # odd lots, and single market makers of the ADF
        "T": "HQ",  # trades as of other days
        "V": "M",  # total volumes
    },
)


@lean
def quote_message(
    state: Any,
    data: Any,
    at: int,
    size: int,
    kind: int,
    stamp: Any,
    sip_ns: int,
    stream: int,
    out: Any,
    n: int,
    log: Any,
) -> int:
    """QE, QF and their combined forms QC, QD: a participant's whole best bid and offer, and the official NBBO."""
    is_long = kind == _QF or kind == _QD
    unit = tape.unit_at(state.units, sip_ns)
    says = u8(data, at + (76 if is_long else 46))
    form = KEEPS
    wanted = state.layouts[kind, tape.READ]
    behind = at + wanted
    if says == _SHORT:
        form = SHORT_FORM
        wanted += SHORT_APPENDAGE_BYTES
    elif says == _LONG:
        form = LONG_FORM
        wanted += LONG_APPENDAGE_BYTES
    elif says == _WHOLE:
        form = IS_QUOTE
    elif says == _NONE:
        form = NO_SIDE
    if size < wanted:
        state.counters[tape.MESSAGE] += 1
        return 0
    sides = at + (48 if is_long else 34)
    bid_px = tape.read_price(state.counters, data, sides, is_long)
    ask_px = tape.read_price(state.counters, data, sides + (12 if is_long else 4), is_long)
    bid_size = (be32(data, sides + 8) if is_long else be16(data, sides + 2)) * unit
    ask_size = (be32(data, sides + 20) if is_long else be16(data, sides + 6)) * unit
    if bid_px == NULL or bid_size == 0:
        bid_px = NULL
        bid_size = NULL
    if ask_px == NULL or ask_size == 0:
        ask_px = NULL
        ask_size = NULL
    condition = tape.letter(data, at + (72 if is_long else 42))
    outside = u8(data, at + (74 if is_long else 44))
    if outside == _BID_OUTSIDE:
        condition = condition << 8 | _OFFER_ONLY
    elif outside == _OFFER_OUTSIDE:
        condition = condition << 8 | _BID_ONLY
    elif outside == _BOTH_OUTSIDE:
        condition = condition << 8 | _NOT_FIRM
    put_quote(out.quotes[n], stamp, bid_px, bid_size, ask_px, ask_size, condition)
    tape.note_quote(state, stamp.symbol, stamp.venue, stream)
    state.symbols[stamp.symbol]["tape"] = stamp.tape
    state.counters[tape.QUOTES] += 1
    if form != KEEPS:
        official = state.official[stamp.symbol]
        far = 14 if form == LONG_FORM else 6
        changed = tape.state_side(
            state.counters,
            official,
            np.int64(0),
            form,
            bid_px,
            bid_size,
            stamp.venue,
            data,
            behind + 1,
            behind + 2,
            unit,
        )
        changed |= tape.state_side(
            state.counters,
            official,
            np.int64(1),
            form,
            ask_px,
            ask_size,
            stamp.venue,
            data,
            behind + far,
            behind + far + 1,
            unit,
        )
        if changed:
            tape.log_official(state, stamp, log)
    return 1


@lean
def trade_message(state: Any, data: Any, at: int, kind: int, stamp: Any, row: Any) -> int:
    """TA, TW, TM, TN (a trade), TZ, TO (one is withdrawn), TY, TP (one is corrected; what it was stands first)."""
    mark: Any = NULL
    original_id: Any = NULL
    if kind == _TM or kind == _TA:
        is_fraction = kind == _TM
        px = tape.read_price(state.counters, data, at + 50, False)
        shares = tape.read_shares(state.counters, data, at + 52, 8 if is_fraction else 2)
        condition = tape.conditions(data, at + (60 if is_fraction else 54))
        trade_id: Any = be64(data, at + 42)
    else:
        is_fraction = kind == _TN or kind == _TO or kind == _TP
        width = 8 if is_fraction else 4
        volume_at = at + 64
        if kind == _TZ or kind == _TO:
            volume_at = at + 65
        elif kind == _TY:
            volume_at = at + 91
        elif kind == _TP:
            volume_at = at + 95
        px = tape.read_price(state.counters, data, volume_at - 8, True)
        shares = tape.read_shares(state.counters, data, volume_at, width)
        condition = tape.conditions(data, volume_at + width)
        trade_id = be64(data, volume_at - 16)
        if kind == _TZ or kind == _TO:
            mark = CANCELS
            original_id = trade_id
            trade_id = NULL
        elif kind == _TY or kind == _TP:
            mark = CORRECTS
            original_id = be64(data, at + 48)
    return tape.tell_trade(state, stamp, px, shares, condition, trade_id, mark, original_id, row)


@lean_kernel
def status_message(state: Any, data: Any, at: int, kind: int, stamp: Any, row: Any) -> int:
    """AH, AK, AB, AV, AP: trading action, that of one market, directory, short-sale restriction, price bands."""
    known = state.symbols[stamp.symbol]
    trading = known["trading"]
    reason = known["reason"]
    if kind == _AH:
        trading = tape.letter(data, at + 40)
        reason = text(data, at + 53, 6)
        known["trading"] = trading
        known["reason"] = reason
    elif kind == _AK:  # what one market does is no state of the symbol
        trading = tape.letter(data, at + 40)
        reason = _HERE_ALONE
    elif kind == _AB:
        known["round_lot"] = be16(data, at + 87)
    elif kind == _AV:
        known["short_sale"] = tape.letter(data, at + 40)
    else:
        known["indicator"] = tape.letter(data, at + 40)
        known["lower_px"] = tape.read_price(state.counters, data, at + 49, True)
        known["upper_px"] = tape.read_price(state.counters, data, at + 57, True)
    return tape.tell_status(state, stamp, trading, reason, row)


@lean_kernel
def breaker_message(state: Any, data: Any, at: int, size: int, sequence: int, block: Any, row: Any) -> int:
    """AD: a level of the market-wide circuit breaker was breached."""
    event_ns = be64(data, at + 5)
    if size < BREAKER_BYTES or not 0 <= event_ns <= tape.TIME_MAX_NS:
        state.counters[tape.MESSAGE] += 1
        return 0
    return tape.tell_breaker(state, _PROCESSOR, u8(data, at + 29), sequence, event_ns, block["recv_ns"], row)


@lean
def message(
    symbols: Any, state: Any, data: Any, at: int, size: int, sequence: int, block: Any, out: Any, n: int, log: Any
) -> int:
    """Apply one message; write at most one row, at ``n``; return how many."""
    state.counters[tape.MESSAGES] += 1
    if size < 3:
        state.counters[tape.MESSAGE] += 1
        return 0
    kind = be16(data, at + 1)
    state.types[kind] += 1
    wanted = state.layouts[kind, tape.READ]
    if wanted <= 0:
        if wanted == 0:
            state.counters[tape.UNKNOWN] += 1
        elif size < HEADER_BYTES:
            state.counters[tape.MESSAGE] += 1
        elif kind == _AD:
            return breaker_message(state, data, at, size, sequence, block, out.statuses[n])
        return 0
    if size < wanted:
        state.counters[tape.MESSAGE] += 1
        return 0
    venue = u8(data, at + (49 if kind == _AK else 3))
    sip_ns = be64(data, at + 5)
    event_ns = be64(data, at + 13)
    if event_ns == 0:
        event_ns = sip_ns
    if not tape.is_venue(venue) or min(sip_ns, event_ns) < 0 or max(sip_ns, event_ns) > tape.TIME_MAX_NS:
        state.counters[tape.MESSAGE] += 1
        return 0
    category = kind >> 8
    name_at = at + state.layouts[kind, tape.NAME_AT]
    symbol = tape.read_symbol(symbols, data, name_at, state.layouts[kind, tape.NAME_BYTES])
    if symbol < 0:
        state.counters[tape.REFUSED if symbol == -1 else tape.MESSAGE] += 1
        return 0
    stamp = Stamp(np.int64(symbol), venue, _TAPE_C, np.int64(sequence), event_ns, np.int64(block["recv_ns"]))
    if category == 81:  # Q
        return quote_message(state, data, at, size, kind, stamp, sip_ns, block["stream"], out, n, log)
    if category == 84:  # T
        return trade_message(state, data, at, kind, stamp, out.trades[n])
    return status_message(state, data, at, kind, stamp, out.statuses[n])


@lean
def wiped(venue: int) -> int:
    """The mask of the venues whose quotes a wipe-out of this originator voids: its own; the processor's voids all."""
    if venue == _PROCESSOR:
        return tape.ALL_VENUES
    return 1 << (venue - 65) if tape.is_venue(venue) else 0


@lean_kernel
def decode(buffer: Any, blocks: Any, first: int, symbols: Any, state: Any, out: Any, log: Any) -> tuple[int, int]:
    """Decode blocks from number ``first``; return the first not taken and the rows written to ``out``.

    Stops early, before a block whose rows or changes of the official NBBO might not fit, and within one that wipes out
    more quotes than there is room for: empty ``out`` and ``log`` and call again. Both must hold the rows of the longest
    block: its bytes // ROW_BYTES_MIN + 1.
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
            at = block["start"]
            done = max(block["skip"], state.cursor[tape.DONE])
            for number in range(block["count"]):
                size = be16(buffer, at)
                if number >= done:
                    if state.cursor[0] == 0:
                        n += message(symbols, state, buffer, at + 2, size, block["first"] + number, block, out, n, log)
                    if size >= HEADER_BYTES and be16(buffer, at + 3) == _WIPE_OUT:
                        venue = u8(buffer, at + 5)
                        n = tape.withdraw(state, block, wiped(venue), out, n)
                        if state.cursor[0] != 0:
                            state.cursor[tape.DONE] = number
                            return i, n
                        if n + room > out.quotes.size:
                            state.cursor[tape.DONE] = number + 1
                            return i, n
                at += 2 + size
            state.cursor[tape.DONE] = 0
        i += 1
    return i, n


def warm_up() -> None:
    """Compile or load the decoder with the live array types; there is no block."""
    out, log = new_out(empty(1, EVENT)), tape.new_log(empty(1, NBBO))
    state = tape.new_state(2, np.zeros((1, 2), np.int64), LAYOUTS)
    decode(np.zeros(1, np.uint8), np.zeros(0, BLOCK), 0, SymbolTable(2).arrays, state, out, log)
