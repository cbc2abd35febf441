"""Who comes in: keys, tokens, tickets, limits of connections, and what ends a visit. No sockets; a clock that moves."""

import base64
import hmac
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from fabric import keys
from fabric.clock import SECOND_NS, ManualClock
from fabric.errors import FabricError
from fabric.topology import Access, Limits, Plan, TokenSettings
from gateway.auth import AuthError, Credentials, Door, Grant, Visit, from_headers, from_message
from gateway.shared import Shared

BASIC = Plan("basic", connections=2, requests=2)
PLANS = (Plan(), BASIC, Plan("taking", connections=1, takeover=True))
SECRET = b"0123456789abcdef0123456789abcdef"


@dataclass
class House:
    """A file of keys, and doors that share a table: as many processes."""

    folder: Path
    clock: ManualClock
    doors: list[Door] = field(default_factory=list)
    access: Access = field(default_factory=Access)

    def __post_init__(self) -> None:
        self.access = Access(str(self.folder / "keys.json"), plans=PLANS)

    def door(self, **access: Any) -> Door:
        self.access = replace(self.access, **access)
        table = Shared(self.folder / "limits.table")
        made = Door(self.access, Limits(address_requests=1, address_connections=3), table, self.clock)
        self.doors.append(made)
        return made

    def key(self, user: str = "alice", plan: str = "full", expires: int | None = None) -> tuple[keys.Key, str]:
        key, secret = keys.make(user, plan, self.clock.now_ns(), expires)
        keys.add(Path(self.access.keys), key)
        return key, secret


@pytest.fixture
def house(tmp_path: Path, clock: ManualClock) -> Iterator[House]:
    made = House(tmp_path, clock)
    yield made
    for door in made.doors:
        door.close()


@dataclass
class Guest:
    """A visit that writes down what it is told."""

    heard: list[str] = field(default_factory=list)

    def visit(self, address: str = "1.2.3.4") -> Visit:
        return Visit(
            address,
            lambda: self.heard.append("replaced"),
            lambda: self.heard.append("ended"),
            lambda left_ms: self.heard.append(f"warned {left_ms}"),
        )


def refused(door: Door, credentials: Credentials | None) -> bool:
    try:
        door.identify(credentials, "1.2.3.4")
    except AuthError:
        return True
    return False


# --- credentials ---


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"Authorization": "Bearer a.b"}, Credentials("a.b")),
        ({"Authorization": "bearer  a.b.c "}, Credentials("a.b.c")),
        ({"Authorization": "Basic " + base64.b64encode(b"id:se:cret").decode()}, Credentials("id", "se:cret")),
        ({"X-API-Key": "a.b"}, Credentials("a.b")),
        ({"APCA-API-KEY-ID": "a", "APCA-API-SECRET-KEY": "b"}, Credentials("a", "b")),
        ({"APCA-API-KEY-ID": "a"}, Credentials("a", "")),
    ],
)
def test_credentials_in_headers(headers: dict[str, str], expected: Credentials | None) -> None:
    assert from_headers(headers) == expected


@pytest.mark.parametrize("text", ["Digest x", "Basic !!", "Basic /w==", ""])
def test_credentials_that_cannot_be_read_are_wrong_ones(text: str) -> None:
    with pytest.raises(AuthError):
        from_headers({"Authorization": text})


def test_credentials_in_an_auth_message() -> None:
    assert from_message("id", "s") == Credentials("id", "s")
    assert from_message("oauth", "a.b.c") == Credentials("a.b.c")
    assert from_message("ticket", "t") == Credentials("t", ticket=True)


# --- keys ---


def test_a_key_lets_in_under_every_form(house: House) -> None:
    key, secret = house.key(plan="basic")
    door = house.door()
    expected = Grant("key alice", BASIC, key.id)
    for credentials in (Credentials(key.id, secret), Credentials(f"{key.id}.{secret}")):
        assert door.identify(credentials, "") == expected
    assert door.failures == 0


def test_whatever_is_wrong_nobody_comes_in(house: House) -> None:
    """Bad input 36, 52."""
    key, secret = house.key()
    ended, ended_secret = house.key(expires=house.clock.now_ns() // SECOND_NS)
    planless, planless_secret = house.key(plan="nowhere")
    door = house.door()
    wrong = [
        None,
        Credentials(key.id, secret + "x"),
        Credentials(key.id, ""),
        Credentials(key.id),
        Credentials("", ""),
        Credentials("FK" + "A" * 18, secret),
        Credentials(ended.id, ended_secret),
        Credentials(planless.id, planless_secret),
        Credentials("\udcff", "\udcff"),
        Credentials("a.b.c"),
        Credentials("a.b.c", ticket=True),
        Credentials("", ticket=True),
    ]
    assert [refused(door, credentials) for credentials in wrong] == [True] * len(wrong)
    assert door.failures == len(wrong) - 1  # who says nothing has failed at nothing


def test_an_unknown_name_takes_as_long_as_a_wrong_secret(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad input 36: the same work for both, counted, since a timed test would only measure the machine."""
    key, _ = house.key()
    door = house.door()
    compared: list[int] = []
    compare = keys.hmac.compare_digest
    monkeypatch.setattr(keys.hmac, "compare_digest", lambda a, b: compared.append(len(a) + len(b)) or compare(a, b))
    for name in (key.id, "FK" + "A" * 18):
        assert refused(door, Credentials(name, "x"))
    assert compared[0] == compared[1]


def test_an_open_gateway_lets_everyone_in(house: House) -> None:
    door = house.door(keys="")
    assert door.identify(None, "1.2.3.4") == door.identify(Credentials("any", "thing"), "1.2.3.4") == Grant("", Plan())


def test_who_says_nothing_has_the_public_plan(house: House) -> None:
    door = house.door(public="basic")
    assert door.identify(None, "1.2.3.4") == Grant("address 1.2.3.4", BASIC)
    assert refused(door, Credentials("wrong", "key"))


# --- what ends a visit ---


def test_a_revoked_key_is_out_and_so_is_what_it_opened(house: House) -> None:
    key, secret = house.key()
    other, other_secret = house.key("bob")
    door, guest, stays = house.door(), Guest(), Guest()
    for who, credentials in ((guest, Credentials(key.id, secret)), (stays, Credentials(other.id, other_secret))):
        visit = who.visit()
        assert door.arrive(visit)
        assert door.admit(visit, door.identify(credentials, ""))
    keys.revoke(Path(house.access.keys), key.id, house.clock.now_ns())
    door.turn()
    assert not guest.heard, "the file is looked at each second"
    house.clock.advance(SECOND_NS)
    door.turn()
    door.turn()
    assert (guest.heard, stays.heard) == (["ended"], [])
    assert refused(door, Credentials(key.id, secret))
    assert door.counters()["revoked"] == 1


def test_a_hangup_looks_at_once(house: House) -> None:
    door = house.door()
    key, secret = house.key()
    assert refused(door, Credentials(key.id, secret))
    door.look()
    door.turn()
    assert not refused(door, Credentials(key.id, secret))


def test_a_file_that_cannot_be_used_changes_nothing_and_is_told(house: House, caplog: pytest.LogCaptureFixture) -> None:
    key, secret = house.key()
    door = house.door()
    path = Path(house.access.keys)
    for spoil in (lambda: path.write_text("{"), lambda: path.chmod(0o644)):
        spoil()
        door.look()
        door.turn()
        door.look()
        door.turn()
        assert not refused(door, Credentials(key.id, secret))
    assert len([record for record in caplog.records if "not read again" in record.getMessage()]) == 2


def test_a_key_that_ends_is_told_before_and_then_closed(house: House) -> None:
    """Bad input 39."""
    now_s = house.clock.now_ns() // SECOND_NS
    key, secret = house.key(expires=now_s + 100)
    door, guest = house.door(), Guest()
    visit = guest.visit()
    door.arrive(visit)
    door.admit(visit, door.identify(Credentials(key.id, secret), ""))
    for seconds in (69, 1, 1, 28, 1, 1):
        house.clock.advance(seconds * SECOND_NS)
        door.turn()
    assert guest.heard == ["warned 30000", "ended"]


# --- tokens ---


def key_set(folder: Path, *entries: dict[str, Any]) -> str:
    path = folder / "jwks.json"
    path.write_text(json.dumps({"keys": list(entries)}))
    path.chmod(0o600)
    return str(path)


def shared_secret(kid: str = "one", secret: bytes = SECRET, alg: str = "HS256") -> dict[str, Any]:
    return {"kty": "oct", "kid": kid, "alg": alg, "k": base64.urlsafe_b64encode(secret).rstrip(b"=").decode()}


@pytest.fixture
def tokens(house: House) -> Door:
    path = key_set(house.folder, shared_secret())
    return house.door(tokens=TokenSettings(path, "us", "fabric"))


def claims(clock: ManualClock, **changes: Any) -> dict[str, Any]:
    now_s = clock.now_ns() // SECOND_NS
    found = {"iss": "us", "aud": "fabric", "sub": "carol", "nbf": now_s, "exp": now_s + 60, "plan": "basic"}
    return {name: value for name, value in (found | changes).items() if value is not None}


def signed(payload: dict[str, Any], key: Any = SECRET, algorithm: str = "HS256", kid: str | None = "one") -> str:
    return jwt.encode(payload, key, algorithm, headers={"kid": kid} if kid else None)


def test_a_token_carries_its_plan_and_its_end(house: House, tokens: Door) -> None:
    grant = tokens.identify(Credentials(signed(claims(house.clock))), "")
    assert grant == Grant("token carol", BASIC, expires_ns=house.clock.now_ns() + 60 * SECOND_NS)
    house.clock.advance(60 * SECOND_NS)
    assert not tokens.good(grant)


def test_a_token_may_say_its_entitlement_itself(house: House, tokens: Door) -> None:
    own = {"channels": ["quotes"], "symbols": ["A*"], "connections": 7, "wildcards": False}
    grant = tokens.identify(Credentials(signed(claims(house.clock, entitlement=own))), "")
    assert grant.plan == replace(BASIC, channels=("quotes",), symbols=("A*",), connections=7, wildcards=False)
    assert (grant.sees("AB"), grant.sees("B"), grant.sees("AB*"), grant.sees("*")) == (True, False, True, False)
    assert (grant.sees_channel("quotes"), grant.sees_channel("trades")) == (True, False)


def test_a_token_that_was_good_is_not_checked_anew_and_still_ends(
    house: House, tokens: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = signed(claims(house.clock))
    first = tokens.identify(Credentials(text), "")
    monkeypatch.setattr(tokens._tokens._jwt, "decode", lambda *_, **__: pytest.fail("checked again"))  # type: ignore[union-attr]
    assert tokens.identify(Credentials(text), "") is first
    monkeypatch.undo()
    house.clock.advance(61 * SECOND_NS)
    assert refused(tokens, Credentials(text))


BAD_CLAIMS = [
    {"exp": None}, {"nbf": None}, {"iss": None}, {"aud": None}, {"sub": None}, {"plan": None},
    {"exp": 1}, {"exp": "soon"}, {"exp": 1e300}, {"exp": True}, {"nbf": 10**11}, {"iss": "them"}, {"aud": "other"},
    {"aud": []}, {"sub": ""}, {"plan": "nowhere"}, {"plan": 3}, {"entitlement": {"chanels": []}},
    {"entitlement": {"connections": -1}}, {"entitlement": {"requests": 0}}, {"entitlement": {"symbols": "A"}},
    {"entitlement": []},
]  # fmt: skip


@pytest.mark.parametrize("changes", BAD_CLAIMS, ids=str)
def test_a_token_whose_claims_are_not_ours_lets_nobody_in(house: House, tokens: Door, changes: dict[str, Any]) -> None:
    assert refused(tokens, Credentials(signed(claims(house.clock, **changes))))


def test_a_token_may_begin_a_little_later_than_our_clock_says(house: House, tokens: Door) -> None:
    now_s = house.clock.now_ns() // SECOND_NS
    assert not refused(tokens, Credentials(signed(claims(house.clock, nbf=now_s + 30))))
    assert refused(tokens, Credentials(signed(claims(house.clock, nbf=now_s + 31))))


def test_a_signature_is_believed_only_under_its_keys_own_algorithm(house: House) -> None:
    """The classic holes: none, another algorithm, the public half as a shared secret, no kid, another's key."""
    private = ec.generate_private_key(ec.SECP256R1())
    jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(private.public_key())) | {"kid": "ec", "alg": "ES256"}
    path = key_set(house.folder, shared_secret(), shared_secret("two", SECRET[::-1]), jwk)
    door = house.door(tokens=TokenSettings(path, "us", "fabric"))
    payload = claims(house.clock)
    assert not refused(door, Credentials(signed(payload, private, "ES256", "ec")))

    def by_hand(algorithm: str, kid: str, key: bytes) -> str:
        head = {"alg": algorithm, "kid": kid, "typ": "JWT"}
        parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (head, payload)]
        signature = hmac.digest(key, b".".join(parts), "sha256") if key else b""
        return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()

    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert not refused(door, Credentials(by_hand("HS256", "one", SECRET)))
    wrong = [
        by_hand("none", "one", b""),
        by_hand("HS256", "ec", public),
        by_hand("ES256", "one", SECRET),
        signed(payload, kid=None),
        signed(payload, kid="three"),
        signed(payload, kid="two"),
        jwt.encode(payload, SECRET * 2, "HS512", headers={"kid": "one"}),
        signed(payload)[:-2],
        "a" * 5_000 + ".b.c",
        "..",
    ]
    assert [refused(door, Credentials(text)) for text in wrong] == [True] * len(wrong)


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("RS256", lambda: rsa.generate_private_key(65537, 2048)),
        ("ES256", lambda: ec.generate_private_key(ec.SECP256R1())),
        ("EdDSA", ed25519.Ed25519PrivateKey.generate),
    ],
)
def test_keys_of_every_algorithm(house: House, algorithm: str, key: Any) -> None:
    private = key()
    made = jwt.get_algorithm_by_name(algorithm).to_jwk(private.public_key())
    path = key_set(house.folder, json.loads(made) | {"kid": "k", "alg": algorithm})
    door = house.door(tokens=TokenSettings(path, "us", "fabric"))
    assert not refused(door, Credentials(signed(claims(house.clock), private, algorithm, "k")))


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (shared_secret(alg="HS512"), "`alg` is one of HS256, RS256, ES256, EdDSA, found 'HS512'"),
        (shared_secret(kid=""), "needs a `kid`"),
        (shared_secret(secret=b"short"), "at least 32 bytes, found 5"),
        ({"kid": "x", "alg": "RS256", "kty": "RSA"}, "not a set of keys"),
        ([], "not a set of keys"),
    ],
)
def test_a_key_set_that_cannot_be_used_is_refused(house: House, entry: Any, problem: str) -> None:
    with pytest.raises(FabricError, match=problem):
        Door(
            replace(house.access, tokens=TokenSettings(key_set(house.folder, entry), "us", "fabric")),
            Limits(), Shared(), house.clock,
        )  # fmt: skip


# --- tickets ---


def test_a_ticket_opens_once_at_any_process(house: House) -> None:
    key, secret = house.key(plan="basic")
    one, two = house.door(), house.door()
    grant = one.identify(Credentials(key.id, secret), "")
    ticket = one.ticket(grant)
    assert two.identify(Credentials(ticket, ticket=True), "") == grant
    assert refused(one, Credentials(ticket, ticket=True))
    late = one.ticket(grant)
    house.clock.advance(30 * SECOND_NS)
    assert refused(one, Credentials(late, ticket=True))


def test_a_ticket_is_worth_what_its_key_is(house: House) -> None:
    key, secret = house.key()
    door = house.door()
    ticket = door.ticket(door.identify(Credentials(key.id, secret), ""))
    keys.revoke(Path(house.access.keys), key.id, house.clock.now_ns())
    door.look()
    door.turn()
    assert refused(door, Credentials(ticket, ticket=True))


def test_a_ticket_that_was_changed_opens_nothing(house: House) -> None:
    door = house.door()
    body, signature = door.ticket(Grant("address 1.2.3.4", Plan())).split(".")
    other, _ = door.ticket(Grant("key root", Plan())).split(".")
    for text in (f"{other}.{signature}", f"{body}.", f"{body}.{signature}.", f"{body[:-4]}.{signature}", "é.é"):
        assert refused(door, Credentials(text, ticket=True))


# --- limits ---


def test_connections_of_a_user_and_of_an_address_over_all_processes(house: House) -> None:
    """Bad input 43."""
    doors = [house.door(), house.door()]
    grant = Grant("key alice", BASIC)
    visits = [Guest().visit() for _ in range(4)]
    assert [doors[i % 2].arrive(visit) for i, visit in enumerate(visits)] == [True, True, True, False]
    assert [doors[i % 2].admit(visit, grant) for i, visit in enumerate(visits[:3])] == [True, True, False]
    doors[0].depart(visits[0])
    assert doors[0].admit(visits[2], grant)
    assert doors[0].arrive(visits[3])


def test_a_new_login_replaces_the_oldest_wherever_it_is(house: House) -> None:
    one, two = house.door(), house.door()
    grant = Grant("key alice", replace(BASIC, connections=1))
    old, new = Guest(), Guest()
    first, second = old.visit("a"), new.visit("b")
    one.arrive(first)
    assert one.admit(first, grant)
    two.arrive(second)
    assert not two.admit(second, grant)
    assert two.admit(second, grant, takeover=True)
    assert not old.heard
    one.turn()
    one.turn()
    assert (old.heard, new.heard) == (["replaced"], [])
    one.depart(first)
    one.turn()
    third = Guest().visit("c")
    one.arrive(third)
    assert not one.admit(third, grant), "one is there: the second"
    assert one.counters()["replaced"] == 1


def test_a_plan_may_always_take_over(house: House) -> None:
    door = house.door()
    grant = Grant("key alice", PLANS[2])
    guests = [Guest() for _ in range(3)]
    for guest in guests:
        visit = guest.visit(guest.__repr__())
        guest.heard.clear()
        assert door.arrive(visit)
        assert door.admit(visit, grant)
    assert [guest.heard for guest in guests] == [["replaced"], ["replaced"], []]


def test_who_was_public_and_says_who_it_is_counts_as_that_user(house: House) -> None:
    door = house.door()
    visit = Guest().visit()
    door.arrive(visit)
    door.admit(visit, Grant("address 1.2.3.4", BASIC))
    assert door.admit(visit, Grant("key alice", BASIC))
    assert [door._shared.connections(f"connections {user}", 0) for user in ("address 1.2.3.4", "key alice")] == [0, 1]
    door.depart(visit)
    assert door._shared.connections("connections key alice", 0) == 0


def test_rates_of_addresses_and_users(house: House) -> None:
    """Bad input 53."""
    one, two = house.door(), house.door()
    assert [door.take_request("a")[:2] for door in (one, two, one)] == [(0, 1), (0, 0), (SECOND_NS, 0)]
    grant = Grant("key alice", BASIC)
    taken = [door.take_user_request(grant) for door in (one, two, one, two, one)]
    assert [found[0] for found in taken if found] == [0, 0, 0, 0, SECOND_NS // 2]
    assert one.take_user_request(Grant("", Plan())) is None
    assert [one.take_message(replace(grant, plan=Plan(messages=1))) for _ in range(6)] == [0] * 5 + [1_000]


def test_a_connection_that_ends_after_the_gateway_is_nobodys(house: House) -> None:
    door, visit = house.door(), Guest().visit()
    door.arrive(visit)
    door.admit(visit, Grant("key alice", BASIC))
    house.doors.remove(door)
    door.close()
    door.depart(visit)
    other = house.door()
    assert other._shared.connections("connections key alice", 0) == 0


def test_a_turn_with_nothing_to_do_is_nearly_free(house: House) -> None:
    door = house.door()
    started = time.process_time()
    for _ in range(1_000):
        door.turn()
    assert time.process_time() - started < 1.0
