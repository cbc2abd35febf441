"""Round lots at the edges of their tiers and on the days around the change."""

from datetime import date

import numpy as np
import pytest

from fabric.records import PRICE_UNIT
from nodes import round_lots

CENT = PRICE_UNIT // 100


@pytest.mark.parametrize(
    ("cents", "lot"),
    [(1, 100), (25_000, 100), (25_001, 40), (100_000, 40), (100_001, 10), (1_000_000, 10), (1_000_001, 1), (10**8, 1)],
)
def test_the_tiers_of_the_rule(cents: int, lot: int) -> None:
    closes = np.array([cents * CENT], np.int64)
    assert round_lots.lots(closes, date(2025, 11, 3)).tolist() == [lot]
    assert round_lots.lots(closes, date(2026, 11, 22)).tolist() == [lot]
    assert round_lots.lots(closes, date(2025, 11, 2)).tolist() == [100]


def test_who_has_not_been_told_takes_no_odd_lot_for_a_round_one() -> None:
    assert [round_lots.default(day) for day in (date(1970, 1, 1), date(2018, 1, 2), date(2025, 11, 3))] == [100] * 3
