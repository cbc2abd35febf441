import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgpack
import pytest

from fabric.clock import SECOND_NS
from fabric.topology import Plan, Venue
from gateway import protocol
from gateway.auth import Grant
from gateway.protocol import Places, ProtocolError
from gateway.protocol_kernel import JSON, MSGPACK
from gateway.session import Answer, Refusal, Session

FEEDS = protocol.feeds([Venue("V", "IEX", "iex"), Venue("N", "NYSE", "nyse")])
AUTH = '{"action":"auth","key":"k","secret":"s","req_id":1}'


class Fake:
    """A client of a fan-out that remembers what it was asked."""

    def __init__(self, interval_ms: int = 0) -> None:
        self.interval_ms = interval_ms
        self.channels: dict[str, Sequence[str]] = {}
        self.snapshot: bool | None = None

    def subscribe(
        self, channels: Mapping[str, Sequence[str]], interval_ms: int, snapshot: bool, resume: Places | None = None
    ) -> None:
        if any(len(patterns) > 3 for patterns in channels.values()):
            raise ProtocolError(405, "quotes", "4 symbols, at most 3")
        self.channels |= channels
        self.interval_ms, self.snapshot, self.resume = interval_ms, snapshot, resume

    def unsubscribe(self, channels: Mapping[str, Sequence[str]]) -> None:
        for channel in channels:
            self.channels.pop(channel, None)

    def choose(self, fields: Sequence[str] | None, heartbeat: bool | None, trace: bool | None = None) -> None:
        self.chosen = (fields, heartbeat, trace)

    def subscribed(self) -> Mapping[str, Sequence[str]]:
        return self.channels


ANYONE = Grant("", Plan())


class FakeHost:
    """A gateway that lets in who has the right secret."""

    def __init__(self, grant: Grant = ANYONE, secret: str = "s") -> None:
        self.grant = grant
        self.secret = secret
        self.takeovers: list[bool] = []
        self.wait_ms = 0
        self.surge = False

    def authenticate(self, key: str, secret: str, takeover: bool, known: Grant | None) -> Grant:
        self.takeovers.append(takeover)
        if secret != self.secret:
            raise Refusal(402, 4401)
        return self.grant

    def take_message(self, grant: Grant) -> int:
        return self.wait_ms

    def count_symbols(self, patterns: Sequence[str]) -> int:
        return len(set(patterns))

    def degraded(self) -> bool:
        return self.surge


def session(
    feed: str = "stream", encoding: int = JSON, fake: Fake | None = None, host: FakeHost | None = None, **options: Any
) -> Session:
    """On /stream anyone is known from the beginning, as at an open gateway."""
    grant = options.pop("grant", ANYONE if feed == "stream" else None)
    return Session(FEEDS[feed], encoding, fake or Fake(), host or FakeHost(), 0, grant, **options)


def allowed(**plan: Any) -> Session:
    """A session of a user with this plan."""
    return session(grant=Grant("key alice", Plan(**plan)), proven=True, venues=["iex", "nyse"])


def code(answer: Answer) -> int:
    (message,) = answer.messages
    assert message["T"] == "error"
    return int(message["code"])


def test_hello() -> None:
    assert session().opened() == Answer([{"T": "success", "msg": "connected"}])


def test_stock_feeds_want_authentication_first_and_once() -> None:
    one = session("sip")
    assert code(one.handle('{"action":"subscribe","quotes":["A"]}', 0)) == 401
    assert one.handle(AUTH, 0) == Answer([{"T": "success", "msg": "authenticated", "req_id": 1}])
    assert code(one.handle(AUTH, 0)) == 403
    assert one.handle('{"action":"subscribe","quotes":["A"]}', 0).messages[0]["quotes"] == ["A"]


def test_our_own_feed_is_open_and_lets_a_client_authenticate_all_the_same() -> None:
    one = session("stream")
    assert one.handle('{"action":"subscribe","quotes":["A"]}', 0).messages[0]["T"] == "subscription"
    assert one.handle(AUTH, 0).messages[0]["msg"] == "authenticated"
    assert code(one.handle(AUTH, 0)) == 403


def test_a_wrong_key_is_refused_and_the_connection_closed() -> None:
    answer = session("sip").handle('{"action":"auth","key":"k","secret":"x"}', 0)
    assert (code(answer), answer.close) == (402, (4401, "auth failed"))
    assert session("sip").handle(AUTH, 0).close is None


def test_who_does_not_authenticate_in_time_is_told_and_closed() -> None:
    one = session("sip")
    assert code(one.overdue()) == 404
    assert one.overdue().close == (4408, "auth timeout")
    one.handle(AUTH, 0)
    assert one.overdue() == session("stream").overdue() == Answer()


def test_the_interval_stays_until_another_is_asked_for() -> None:
    fake = Fake(interval_ms=100)
    one = session(fake=fake)
    one.handle('{"action":"subscribe","quotes":["A"]}', 0)
    assert (fake.interval_ms, fake.snapshot) == (100, True)
    answer = one.handle('{"action":"subscribe","quotes":["B"],"interval_ms":0,"snapshot":false,"req_id":"q"}', 0)
    assert (fake.interval_ms, fake.snapshot) == (0, False)
    assert (answer.messages[0]["interval_ms"], answer.messages[0]["req_id"]) == (0, "q")


def test_a_limit_names_the_request() -> None:
    answer = session().handle('{"action":"subscribe","quotes":["A","B","C","D"],"req_id":9}', 0)
    assert code(answer) == 405
    assert (answer.messages[0]["req_id"], answer.close) == (9, None)


def test_unsubscribing_from_nothing_gives_the_current_set() -> None:
    answer = session().handle('{"action":"unsubscribe","trades":["A"]}', 0)
    assert answer.messages[0]["trades"] == []


@pytest.mark.parametrize(("channel", "expected"), [("venueQuotes", 410), ("bars", 410), ("barsNow", 410)])
def test_a_venue_does_not_pass_off_the_market_as_its_own(channel: str, expected: int) -> None:
    one = session("nyse")
    one.handle(AUTH, 0)
    answer = one.handle(json.dumps({"action": "subscribe", channel: ["A"]}), 0)
    assert code(answer) == expected
    assert answer.messages[0]["field"] == channel
    assert one.handle(json.dumps({"action": "subscribe", channel: []}), 0).messages[0]["T"] == "subscription"


def test_bars_of_the_only_venue_are_its_own() -> None:
    feed = protocol.feeds([Venue("V", "IEX", "iex")])["iex"]
    one = Session(feed, JSON, Fake(), FakeHost(), 0)
    one.handle(AUTH, 0)
    assert one.handle('{"action":"subscribe","bars":["A"]}', 0).messages[0]["bars"] == ["A"]


def test_five_bad_messages_in_ten_seconds_are_too_many() -> None:
    one = session()
    assert [one.handle("{", second * SECOND_NS).close for second in range(4)] == [None] * 4
    assert one.handle("{", 4 * SECOND_NS).close == (1008, "too many bad messages")


def test_five_bad_messages_in_a_longer_time_are_not() -> None:
    one = session()
    assert not any(one.handle("{", 3 * second * SECOND_NS).close for second in range(20))


@pytest.mark.parametrize(("encoding", "data"), [(JSON, msgpack.packb({})), (MSGPACK, "{}")])
def test_the_other_kind_of_frame_closes(encoding: int, data: str | bytes) -> None:
    answer = session(encoding=encoding).handle(data, 0)
    assert answer.close is not None
    assert answer.close[0] == 1003


def test_a_flood_is_told_when_to_come_back_then_closed() -> None:
    one = session()
    request = '{"action":"subscribe"}'
    answers = [one.handle(request, 0) for _ in range(110)]
    assert all(answer.messages[0]["T"] == "subscription" for answer in answers[:100])
    assert [code(answer) for answer in answers[100:]] == [406] * 10
    assert answers[100].messages[0]["retry_after_ms"] == 50
    assert answers[-2].close is None
    assert answers[-1].close == (4429, "too many messages")


# --- plans ---


def subscribe(one: Session, **channels: Any) -> Answer:
    return one.handle(json.dumps({"action": "subscribe", **channels}), 0)


def test_a_known_client_is_greeted_as_such() -> None:
    assert [message["msg"] for message in allowed().opened().messages] == ["connected", "authenticated"]
    assert code(allowed().handle(AUTH, 0)) == 403


def test_what_is_not_in_the_plan_is_named_and_the_rest_is_subscribed() -> None:
    """Bad input 40."""
    one = allowed(channels=("quotes",), symbols=("AAPL", "BRK*"))
    answer = subscribe(one, quotes=["AAPL", "MSFT", "BRK.B", "BRK*", "B*"], trades=["AAPL"], req_id=7)
    error, listing = answer.messages
    assert (error["T"], error["code"], error["req_id"]) == ("error", 409, 7)
    assert error["detail"] == "not in the plan 'full': trades: AAPL; quotes: MSFT B*"
    assert (listing["quotes"], listing["trades"]) == (["AAPL", "BRK.B", "BRK*"], [])
    assert answer.close is None


def test_wildcards_are_a_right() -> None:
    """Bad input 46."""
    error, listing = subscribe(allowed(wildcards=False), quotes=["A", "A*", "*"]).messages
    assert (error["code"], error["detail"][-4:], listing["quotes"]) == (409, "A* *", ["A"])


def test_quotes_of_every_venue_are_for_who_may_see_every_venue() -> None:
    assert subscribe(allowed(feeds=("sip", "iex")), venueQuotes=["A"]).messages[0]["code"] == 409
    assert subscribe(allowed(feeds=("sip", "iex", "nyse")), venueQuotes=["A"]).messages[0]["venueQuotes"] == ["A"]


def test_a_delayed_plan_has_what_is_kept_of_the_past() -> None:
    error, listing = subscribe(allowed(delay_ns=1), quotes=["A"], trades=["A"], barsNow=["A"], bars=["A"]).messages
    assert error["detail"] == "not in the plan 'full': trades: A; barsNow: A"
    assert (listing["quotes"], listing["bars"]) == (["A"], ["A"])


def test_more_symbols_than_the_plan_has_change_nothing() -> None:
    """Bad input 42."""
    one = allowed(symbols_max=2)
    subscribe(one, quotes=["A", "B"])
    answer = subscribe(one, trades=["A"], quotes=["A", "B", "C"])
    assert code(answer) == 405
    assert answer.messages[0]["detail"] == "3 symbols, at most 2 by the plan 'full'"
    listing = one.handle('{"action":"unsubscribe"}', 0).messages[0]
    assert (listing["quotes"], listing["trades"]) == (["A", "B"], [])


def test_in_a_surge_a_plan_may_have_fewer() -> None:
    host = FakeHost()
    one = session(grant=Grant("u", Plan(symbols_max=3, symbols_surge=1)), host=host)
    host.surge = True
    assert code(subscribe(one, quotes=["A", "B"])) == 405
    host.surge = False
    assert subscribe(one, quotes=["A", "B"]).messages[0]["quotes"] == ["A", "B"]


def test_a_users_messages_are_counted_where_all_its_connections_are() -> None:
    host = FakeHost()
    one = session(grant=Grant("u", Plan(messages=3)), host=host)
    host.wait_ms = 70
    answer = one.handle('{"action":"unsubscribe"}', 0)
    assert (code(answer), answer.messages[0]["retry_after_ms"]) == (406, 70)
    assert answer.messages[0]["detail"] == "more than 3 messages a second"


def test_who_has_a_token_that_ends_may_say_again_who_it_is() -> None:
    host = FakeHost(Grant("token a", Plan(), expires_ns=5))
    one = session("sip", host=host)
    for _ in range(2):
        assert one.handle(AUTH, 0).messages[0]["msg"] == "authenticated"
    host.grant = Grant("token a", Plan())
    one.handle(AUTH, 0)
    assert code(one.handle(AUTH, 0)) == 403


def test_a_client_may_ask_to_replace_another() -> None:
    host = FakeHost()
    session("sip", host=host).handle('{"action":"auth","key":"k","secret":"s","takeover":true}', 0)
    session("sip", host=host).handle(AUTH, 0)
    assert host.takeovers == [True, False]
    assert code(session("sip").handle('{"action":"auth","key":"k","secret":"s","takeover":1}', 0)) == 400


def test_what_a_client_chose_reaches_the_fan_out_and_nothing_else_changes_it() -> None:
    fake = Fake()
    talk = session(fake=fake)
    talk.handle('{"action":"subscribe","quotes":["A"]}', 1)
    assert not hasattr(fake, "chosen")
    talk.handle('{"action":"subscribe","fields":["bp"]}', 2)
    assert fake.chosen == (("bp",), None, None)
    talk.handle('{"action":"subscribe","hb":true}', 3)
    assert fake.chosen == (None, True, None)
    talk.handle('{"action":"subscribe","trace":true}', 4)
    assert fake.chosen == (None, None, True)


def test_a_client_says_where_it_left_off() -> None:
    fake = Fake()
    talk = session(fake=fake)
    talk.handle('{"action":"subscribe","trades":["A"]}', 1)
    assert fake.resume is None
    talk.handle('{"action":"subscribe","trades":["A"],"resume":{}}', 2)
    assert fake.resume == {}
    talk.handle('{"action":"subscribe","resume":{"iex":["1795392000123456789",7],"nbbo":[3,0]}}', 3)
    assert fake.resume == {"iex": (1795392000123456789, 7), "nbbo": (3, 0)}
    for wrong in (
        '{"iex":7}',
        '{"iex":["x",7]}',
        '{"iex":[1]}',
        '{"iex":[1,-1]}',
        '{"iex":[1,true]}',
        '{"iex":[1.0,2]}',
    ):
        (answer,) = talk.handle(f'{{"action":"subscribe","resume":{wrong}}}', 4).messages
        assert (answer["code"], answer["field"]) == (400, "resume.iex"), wrong
    (answer,) = talk.handle('{"action":"subscribe","resume":[1]}', 10**10).messages
    assert (answer["code"], answer["field"]) == (400, "resume")
