"""Why the best bid and offer of a symbol is what it is: who holds each side, who else is there, who is left out (pure).

It decides nothing. The winners and who is at the best are the processor's row (`NBBO`), the reasons are the
processor's own (`WHY`); a venue's price and size are its own quote's. These come from different publishers, so at
an instant a quote may be newer than the composite: such a side is called ``ahead``.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fabric.records import (
    NULL,
    STATE_HALTED,
    STATE_NAMES,
    STATE_NATIONAL,
    STATE_STALE,
    unpack,
    venue_letters,
    venue_mask,
)
from fabric.reference import session_at
from gateway.latest import Latest
from gateway.values import decimal, number, rfc3339

JsonObject = dict[str, Any]
Row = Mapping[str, int]

BEST, AT_BEST, BEHIND, AHEAD, OUT, NONE = "best", "at_best", "behind", "ahead", "out", "none"
"""What a side of a venue is to the best: holds it, is at its price, is behind it, is newer than it; is left out for a
reason; or is not there."""

REASONS = {
    "lost": "the line or the publisher of this venue is lost, and it has not quoted since",
    "closed": "the venue has ended its day",
    "shut": "halted, suspended or closed at this venue alone",
    "condition": "the condition of the quote is not eligible",
    "odd_lot": "less than a round lot",
}
"""Why a side is left out, the first that holds."""
NEWER = "newer than the best bid and offer that has come"


def answer(latest: Latest, names: Mapping[str, str], symbol: int, now_ns: int) -> JsonObject:
    """The explanation of one symbol; ``names`` are those of the venues by letter."""
    best, why, odd = (_values(table[symbol]) for table in (latest.nbbo, latest.whys, latest.bolos))
    state = max(best["state"], 0) | (STATE_STALE if latest.stale(symbol) else 0)
    venues = [_venue(latest, names, symbol, slot, best, why, now_ns) for slot in range(len(latest.venues))]
    return {
        "symbol": latest.symbols.name(symbol),
        "kind": "nbbo" if state & STATE_NATIONAL else "composite",
        "state": "stale" if state & STATE_STALE else "halted" if state & STATE_HALTED else "live",
        "flags": [flag for bit, flag in STATE_NAMES.items() if state & bit],
        "session": session_at(now_ns).state,
        "t": rfc3339(best["event_ns"]),
        "scope": venue_letters(max(best["scope"], 0)),
        "round_lot": number(why["round_lot"]),
        "halted_by": venue_letters(max(why["halting"], 0)),
        "bands": {"lower": decimal(why["lower_px"]), "upper": decimal(why["upper_px"])},
        "bid": _best(best, odd, "bid"),
        "ask": _best(best, odd, "ask"),
        "venues": venues,
    }


def _values(row: np.void) -> Row:
    return dict(zip(row.dtype.names or (), row.item(), strict=True))


def _best(best: Row, odd: Row, side: str) -> JsonObject | None:
    """The best of one side, and the best odd lot beside it."""
    beside = {"price": decimal(odd[f"{side}_px"]), "size": number(odd[f"{side}_size"])}
    return {
        "price": decimal(best[f"{side}_px"]),
        "size": number(best[f"{side}_size"]),
        "venue": unpack(best[f"{side}_venue"]) or None,
        "total": number(best[f"{side}_total"]),
        "venues": venue_letters(max(best[f"{side}_mask"], 0)),
        "odd_lot": beside | {"venue": unpack(odd[f"{side}_venue"])} if odd[f"{side}_px"] != NULL else None,
    }


def _venue(
    latest: Latest, names: Mapping[str, str], symbol: int, slot: int, best: Row, why: Row, now_ns: int
) -> JsonObject:
    letter = latest.venues[slot]
    quote = _values(latest.quotes[symbol, slot])
    age_ns = None if quote["recv_ns"] == NULL else max(now_ns - quote["recv_ns"], 0)
    return {
        "venue": letter,
        "name": names.get(letter, letter),
        "t": rfc3339(quote["event_ns"]),
        "age_ms": None if age_ns is None else age_ns // 1_000_000,
        "conditions": list(unpack(quote["condition"])),
        "stale": latest.quote_stale(symbol, slot),
        "bid": _side(letter, quote, best, why, "bid"),
        "ask": _side(letter, quote, best, why, "ask"),
    }


def _side(letter: str, quote: Row, best: Row, why: Row, side: str) -> JsonObject:
    """What one side of a venue is to the best, and why."""
    px, size = quote[f"{side}_px"], quote[f"{side}_size"]
    standing, reason = _standing(letter, px, size, best, why, side)
    found: JsonObject = {"price": decimal(px), "size": number(size), "standing": standing}
    if standing == OUT:
        found |= {"reason": reason, "why": REASONS[reason]}
    elif reason:
        found["why"] = reason
    if _has(why[f"{side}_slow"], letter):
        found["slow"] = True
    return found


def _standing(letter: str, px: int, size: int, best: Row, why: Row, side: str) -> tuple[str, str]:
    for reason in REASONS:
        if _has(why[reason] if reason in why else why[f"{side}_{reason}"], letter):
            return OUT, reason
    best_px = best[f"{side}_px"]
    if unpack(best[f"{side}_venue"]) == letter:
        if px != best_px:
            return BEST, f"held it; this quote is {NEWER}"
        alone = best[f"{side}_mask"] == venue_mask(letter)
        return BEST, "alone at the best price" if alone else "the largest there, or as large and the first"
    if _has(best[f"{side}_mask"], letter) and px == best_px:
        smaller = size < best[f"{side}_size"]
        return AT_BEST, "same price, smaller size" if smaller else "same price and size, but later"
    if px == NULL:
        return NONE, "no quote on this side"
    if _has(best[f"{side}_mask"], letter):
        return AHEAD, NEWER
    if best_px != NULL and (px < best_px if side == "bid" else px > best_px):
        return BEHIND, "a worse price"
    return AHEAD, NEWER


def _has(mask: int, letter: str) -> bool:
    return mask != NULL and bool(mask & venue_mask(letter))
