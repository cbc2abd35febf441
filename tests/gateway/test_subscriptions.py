import pytest

from gateway.subscriptions import Subscriptions


@pytest.fixture
def subscriptions() -> Subscriptions:
    return Subscriptions()


def test_patterns_are_kept_as_they_were_said_each_once(subscriptions: Subscriptions) -> None:
    subscriptions.add(1, {"quotes": ["B", "A*"], "trades": []})
    subscriptions.add(1, {"quotes": ["A*", "*"]})
    assert subscriptions.of(1) == {"quotes": ["B", "A*", "*"], "trades": []}
    assert subscriptions.of(2) == {}


def test_a_symbol_finds_those_who_named_it_a_prefix_of_it_or_everything(subscriptions: Subscriptions) -> None:
    subscriptions.add(1, {"quotes": ["AAPL"]})
    subscriptions.add(2, {"quotes": ["AA*", "AAPL"], "bars": ["A*"]})
    subscriptions.add(3, {"trades": ["*"]})
    subscriptions.add(4, {"quotes": ["AAPLX", "AB*", "A"]})
    assert set(subscriptions.wanting("AAPL")) == {(1, "quotes"), (2, "quotes"), (2, "bars"), (3, "trades")}
    assert set(subscriptions.wanting("AA")) == {(2, "quotes"), (2, "bars"), (3, "trades")}


def test_each_client_and_channel_is_found_once(subscriptions: Subscriptions) -> None:
    subscriptions.add(1, {"quotes": ["*", "A*", "A"]})
    assert list(subscriptions.wanting("A")) == [(1, "quotes")]


def test_unsubscribing_takes_away_what_was_named_and_nothing_else(subscriptions: Subscriptions) -> None:
    subscriptions.add(1, {"quotes": ["A", "A*"], "trades": ["A"]})
    subscriptions.remove(1, {"quotes": ["A", "B"], "bars": ["A"]})
    assert subscriptions.of(1) == {"quotes": ["A*"], "trades": ["A"]}
    assert set(subscriptions.wanting("A")) == {(1, "quotes"), (1, "trades")}


def test_a_client_that_left_is_forgotten(subscriptions: Subscriptions) -> None:
    subscriptions.add(1, {"quotes": ["A", "*"]})
    subscriptions.drop(1)
    subscriptions.drop(1)
    assert subscriptions.of(1) == {}
    assert list(subscriptions.wanting("A")) == []
