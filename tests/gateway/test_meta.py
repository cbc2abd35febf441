"""What is served of reference data: conditions of both plans, the session of an instant."""

from datetime import date

import pytest

from gateway import meta
from gateway.rest import parse_instant


def test_conditions_are_every_row_of_both_plans() -> None:
    answer = meta.conditions(None)
    rows = {(row["tape"], row["code"]): row for row in answer["sale_conditions"]}
    assert len(rows) == len(answer["sale_conditions"]) == 24 + 24 + 30
    assert (rows["A", "B"]["high_low"], rows["C", "B"]["high_low"]) == (False, True)  # average price; bunched
    assert {row["last"] for row in rows.values()} == set(answer["last"])
    assert (rows["B", "M"]["volume"], rows["C", "9"]["volume"], rows["C", "I"]["volume"]) == (False, False, True)
    assert meta.conditions(date(1990, 1, 1))["sale_conditions"] == []
    quotes = {(row["tape"], row["code"]): (row["sides"], row["slow"]) for row in answer["quote_conditions"]}
    assert len(quotes) == len(answer["quote_conditions"]) == 3 * 13
    assert (quotes["B", "F"], quotes["C", "F"], quotes["A", "H"]) == (("bid", "offer"), ("none", "none"), ("both",) * 2)
    assert set(answer["quotes"]["C"]) >= {code for tape, code in quotes if tape == "C"}


@pytest.mark.parametrize(
    ("at", "state", "half_day"),
    [
        ("2026-11-27T17:59:59Z", "regular", True),
        ("2026-11-27T18:00:00Z", "post", True),
        ("2026-11-26T18:00:00Z", "closed", False),
        ("2026-03-06T14:30:00Z", "regular", False),
        ("2026-03-09T13:30:00Z", "regular", False),
        ("2026-11-02T14:29:59Z", "pre", False),
    ],
)
def test_the_session_of_an_instant(at: str, state: str, half_day: bool) -> None:
    answer = meta.session(parse_instant("at", at))
    assert (answer["session"], answer["half_day"], answer["date"]) == (state, half_day, at[:10])
