"""The dated tables: which version holds on a day, and that both plans are kept apart."""

from datetime import date

import pytest

from fabric import reference
from fabric.reference import QuoteCondition
from nodes import quote_conditions
from nodes.quote_conditions import BID, BOTH, CTA, FAST, KNOWN, OFFER, UNKNOWN_PLAN, UTP


def test_a_correction_of_the_data_holds_from_its_day_on(monkeypatch: pytest.MonkeyPatch) -> None:
    later = [QuoteCondition(date(2027, 3, 1), tape, "R", "bid", "none", "regular") for tape in "AB"]
    rows = (*reference.quote_conditions(), *later)
    monkeypatch.setattr(reference, "_quote_rows", lambda: rows)
    before, after = (quote_conditions.tables(day) for day in (date(2027, 2, 28), date(2027, 3, 1)))
    assert before[CTA, ord("R")] == BOTH | FAST | KNOWN
    assert after[CTA, ord("R")] == BID | FAST | KNOWN
    assert after[CTA, ord("A")] == before[CTA, ord("A")]
    assert (before[UTP] == after[UTP]).all()
    assert quote_conditions.tables(date(1970, 1, 1))[CTA, ord("R")] == BOTH | FAST | KNOWN


def test_codes_that_mean_another_thing_in_each_plan() -> None:
    table = quote_conditions.tables(date(2026, 11, 22))
    allowed = {code: [int(table[plan, ord(code)]) & BOTH for plan in (CTA, UTP, UNKNOWN_PLAN)] for code in "FEWYXe"}
    assert allowed == {
        "F": [BID, 0, 0],
        "E": [OFFER, 0, 0],
        "W": [BOTH, 0, 0],
        "Y": [0, BOTH, 0],
        "X": [0, 0, 0],
        "e": [OFFER, OFFER, OFFER],
    }


def test_every_row_has_a_meaning_and_a_day() -> None:
    rows = reference.quote_conditions()
    assert len({(row.tape, row.code, row.since) for row in rows}) == len(rows) == 13 + 13 + 13
    assert all(row.meaning and row.since <= date(2018, 1, 2) for row in rows)
