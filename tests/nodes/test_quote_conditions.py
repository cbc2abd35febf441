"""The dated tables: which version holds on a day, and that both plans are kept apart."""

from dataclasses import replace
from datetime import date

import pytest

from nodes import quote_conditions
from nodes.quote_conditions import BID, BOTH, CTA, FAST, KNOWN, OFFER, PLANS, UNKNOWN_PLAN, UTP, Condition, in_force


def test_a_correction_of_the_data_holds_from_its_day_on(monkeypatch: pytest.MonkeyPatch) -> None:
    later = replace(in_force(CTA, date.max), since=date(2027, 3, 1), conditions=(Condition("R", "regular", BID),))
    monkeypatch.setattr(quote_conditions, "PLANS", (later, *PLANS))
    before, after = (quote_conditions.tables(day) for day in (date(2027, 2, 28), date(2027, 3, 1)))
    assert before[CTA, ord("R")] == BOTH | FAST | KNOWN
    assert after[CTA, ord("R")] == BID | FAST | KNOWN
    assert after[CTA, ord("A")] == 0
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


def test_every_version_says_where_it_is_from_and_names_each_code_once() -> None:
    for plan in PLANS:
        codes = [condition.code for condition in plan.conditions]
        assert plan.version
        assert len(codes) == len(set(codes))
        assert all(condition.meaning for condition in plan.conditions)
