"""Who comes in at a gateway, and what each may see: keys, tokens, tickets, plans, and the live connections.

`Door` is one process's; what must hold over all processes of the machine it keeps in `gateway.shared`, and the
file of keys is the same for all. The loop calls `turn` again and again: the file is looked at each second (and at
once on SIGHUP), connections whose key is revoked or whose token has ended are closed, and so are those that a new
login elsewhere has replaced.

Only what has been proven is believed: a key by its secret, a JSON Web Token by its signature under the algorithm
that its key is for, a ticket by ours. Whatever is wrong with any of them, the answer and its time are the same.
"""

import base64
import binascii
import hashlib
import hmac
import json
import logging
import math
import secrets
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from fabric import keys
from fabric.clock import MILLISECOND_NS, SECOND_NS, Clock
from fabric.errors import FabricError
from fabric.topology import Access, Limits, Plan, TokenSettings
from gateway.limits import Rate
from gateway.shared import Shared

ALGORITHMS: Final = ("HS256", "RS256", "ES256", "EdDSA")
"""Of tokens; each key of the set is for one of them, whatever a token says."""
LEEWAY_S: Final = 30
"""A token may begin so much later than our clock says."""
TOKEN_BYTES_MAX: Final = 4_096
TOKENS_CACHED: Final = 4_096
TICKET_S: Final = 30
WARN_NS: Final = 30 * SECOND_NS
"""Before a token ends its client is told."""
MESSAGES_BURST: Final = 5
"""Seconds' worth of messages that may come at once."""
LOOK_NS: Final = SECOND_NS
"""Between two looks at the file of keys."""
TICKET: Final = "ticket"
OAUTH: Final = "oauth"
"""As ``key`` of an auth message: the ``secret`` is a ticket; it is a token or a whole key (Alpaca's word)."""

_log = logging.getLogger(__name__)


class AuthError(Exception):
    """Nobody comes in with this; no word of why."""


@dataclass(frozen=True)
class Grant:
    """Someone who came in, and what they may do."""

    user: str  # whose limits it counts for
    plan: Plan
    key_id: str = ""  # of an API key: closed when that is revoked
    expires_ns: int | None = None  # since the epoch

    def sees_feed(self, name: str) -> bool:
        """Whether values of this feed may be seen: ``sip``, or a venue's own, of which no delayed values are kept."""
        if self.plan.delay_ns and name != "sip":
            return False
        return not self.plan.feeds or name in self.plan.feeds

    def sees_channel(self, channel: str) -> bool:
        return not self.plan.channels or channel in self.plan.channels

    def sees(self, pattern: str) -> bool:
        """Whether every symbol that a pattern means may be seen: a symbol, a prefix with ``*``, or ``*``."""
        if not self.plan.symbols:
            return True
        prefix = pattern.removesuffix("*")
        return any(
            prefix.startswith(allowed[:-1]) if allowed.endswith("*") else pattern == allowed
            for allowed in self.plan.symbols
        )


@dataclass(frozen=True)
class Credentials:
    """What someone says of themselves: a key's name and secret, or one text, a token or both joined by a dot."""

    text: str
    secret: str | None = None
    ticket: bool = False


def from_headers(headers: Mapping[str, str]) -> Credentials | None:
    """The credentials of a request, None when it has none; raises AuthError for what cannot be read."""
    if "Authorization" in headers:
        scheme, _, text = headers["Authorization"].strip().partition(" ")
        if scheme.lower() == "bearer":
            return Credentials(text.strip())
        if scheme.lower() == "basic":
            try:
                name, _, secret = base64.b64decode(text.strip(), validate=True).decode().partition(":")
            except (binascii.Error, ValueError):
                raise AuthError from None
            return Credentials(name, secret)
        raise AuthError
    if "X-API-Key" in headers:
        return Credentials(headers["X-API-Key"].strip())
    if "APCA-API-KEY-ID" in headers:
        return Credentials(headers["APCA-API-KEY-ID"], headers.get("APCA-API-SECRET-KEY", ""))
    return None


def from_message(key: str, secret: str) -> Credentials:
    """The credentials of an auth message."""
    if key == TICKET:
        return Credentials(secret, ticket=True)
    return Credentials(secret) if key == OAUTH else Credentials(key, secret)


class _Entitlement(msgspec.Struct, forbid_unknown_fields=True):
    """What a token's ``entitlement`` may say: the keys of a plan, in place of the plan's own."""

    feeds: tuple[str, ...] | None = None
    channels: tuple[str, ...] | None = None
    symbols: tuple[str, ...] | None = None
    wildcards: bool | None = None
    takeover: bool | None = None
    connections: int | None = None
    symbols_max: int | None = None
    symbols_surge: int | None = None
    messages: int | None = None
    requests: int | None = None


class Tokens:
    """Judges JSON Web Tokens (RFC 7519) of one issuer."""

    def __init__(self, settings: TokenSettings, access: Access) -> None:
        """Read the key set (RFC 7517); raises FabricError that says what is wrong with it."""
        import jwt  # half a second with its cryptography: only where tokens are taken

        self._jwt = jwt
        self._settings = settings
        self._access = access
        self._keys: dict[str, tuple[str, Any]] = {}
        try:
            entries = json.loads(Path(settings.keys).read_bytes())["keys"]
            for entry in entries:
                kid, algorithm = entry.get("kid"), entry.get("alg")
                if not isinstance(kid, str) or not kid or kid in self._keys:
                    raise ValueError(f"each key needs a `kid` of its own, found {kid!r}")
                if algorithm not in ALGORITHMS:
                    raise ValueError(f"key {kid!r}: `alg` is one of {', '.join(ALGORITHMS)}, found {algorithm!r}")
                key = jwt.PyJWK(entry).key
                if algorithm == "HS256" and len(key) < 32:
                    raise ValueError(f"key {kid!r}: a secret for HS256 has at least 32 bytes, found {len(key)}")
                self._keys[kid] = (algorithm, key)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, jwt.PyJWTError) as error:
            raise FabricError(f"{settings.keys}: not a set of keys for tokens: {error}"[:300]) from error

    def judge(self, text: str, now_ns: int) -> Grant:
        """Whom a token names. Raises AuthError."""
        if len(text) > TOKEN_BYTES_MAX:
            raise AuthError
        try:
            algorithm, key = self._keys[self._jwt.get_unverified_header(text)["kid"]]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                claims = self._jwt.decode(
                    text,
                    key,
                    algorithms=[algorithm],
                    audience=self._settings.audience,
                    issuer=self._settings.issuer,
                    options={
                        "require": ["exp", "nbf", "iss", "aud", "sub"],
                        "verify_exp": False,  # by our clock, below
                        "verify_nbf": False,
                        "verify_iat": False,
                    },
                )
        except (self._jwt.PyJWTError, KeyError, TypeError, ValueError):
            raise AuthError from None
        expires_ns, begins_ns = _instant(claims["exp"]), _instant(claims["nbf"])
        plan = self._plan(claims)
        if now_ns >= expires_ns or begins_ns > now_ns + LEEWAY_S * SECOND_NS or not claims["sub"]:
            raise AuthError
        return Grant(f"token {claims['sub']}", plan, expires_ns=expires_ns)

    def _plan(self, claims: Mapping[str, Any]) -> Plan:
        """The plan that a token names, with what it says otherwise."""
        plan = self._access.plan(claims["plan"]) if isinstance(claims.get("plan"), str) else None
        if plan is None:
            raise AuthError
        try:
            own = msgspec.convert(claims.get("entitlement", {}), _Entitlement, strict=True)
        except msgspec.ValidationError:
            raise AuthError from None
        given = {name: value for name in own.__struct_fields__ if (value := getattr(own, name)) is not None}
        if any(type(value) is int and value < (name in ("messages", "requests")) for name, value in given.items()):
            raise AuthError
        return replace(plan, **given)


def _instant(claim: object) -> int:
    """A NumericDate in nanoseconds; raises AuthError."""
    if isinstance(claim, bool) or not isinstance(claim, int | float) or not math.isfinite(claim) or abs(claim) > 1e11:
        raise AuthError
    return round(claim * SECOND_NS)


@dataclass(slots=True, eq=False)
class Visit:
    """A live WebSocket connection, from its opening to its end."""

    address: str
    replaced: Callable[[], None]  # tell it that a new login takes its place, and close it
    ended: Callable[[], None]  # tell it that it is no longer let in, and close it
    warn: Callable[[int], None]  # tell it in how many milliseconds its token ends
    grant: Grant | None = None
    warned: bool = False
    going: bool = False  # told to go: it counts no longer


ANYONE = Grant("", Plan())
"""Whoever comes where no keys are asked for."""


class Door:
    """Who may come in; see the module's text."""

    def __init__(self, access: Access, limits: Limits, shared: Shared, clock: Clock) -> None:
        """Raises FabricError when the file of keys or of tokens' keys cannot be used."""
        self._access = access
        self._limits = limits
        self._shared = shared
        self._clock = clock
        self._keys = keys.Keys({})
        self._keys_stamp: tuple[int, ...] | None = None
        self._tokens = Tokens(access.tokens, access) if access.tokens else None
        self._cached: dict[bytes, Grant] = {}  # tokens that were good, by their hash
        self._looked_ns = clock.monotonic_ns()
        self._look = False
        self._closed = False
        self._visits: dict[str, dict[Visit, None]] = {}  # by user, the oldest first
        self._addresses = Rate(limits.address_requests, 2 * limits.address_requests)
        self.failures = 0  # who was not let in
        self.refused = 0  # connections beyond a limit
        self.replaced = 0
        self.revoked = 0  # connections closed because their key or token ended
        if access.keys:
            self._keys_stamp = _stamp(access.keys)  # before it is read: a change in between is seen at the next look
            self._keys = keys.read(Path(access.keys))
            if not self._keys.by_id and self._tokens is None:
                _log.warning("%s: no keys yet: nobody can come in (`fabric keys new USER`)", access.keys)

    @property
    def open(self) -> bool:
        """Whether everyone may come in, whatever they say."""
        return self._access.open

    # --- who ---

    def identify(self, credentials: Credentials | None, address: str) -> Grant:
        """Whom someone proves to be. Raises AuthError."""
        if self.open:
            return ANYONE
        if credentials is None:
            plan = self._access.plan(self._access.public)
            if plan is None:
                raise AuthError
            return Grant(f"address {address}", plan)
        try:
            return self._judge(credentials)
        except AuthError:
            self.failures += 1
            raise

    def _judge(self, credentials: Credentials) -> Grant:
        now_ns = self._clock.now_ns()
        text, secret = credentials.text, credentials.secret
        if credentials.ticket:
            return self._redeem(text, now_ns)
        if secret is None:
            if text.count(".") == 2:
                return self._token(text, now_ns)
            text, _, secret = text.partition(".")
        key = self._keys.find(text, secret, now_ns)
        plan = self._access.plan(key.plan) if key else None
        if key is None or plan is None:
            raise AuthError
        return Grant(f"key {key.user}", plan, key.id, None if key.expires is None else key.expires * SECOND_NS)

    def _token(self, text: str, now_ns: int) -> Grant:
        """A token's grant; signatures that were checked once are not checked again."""
        if self._tokens is None:
            raise AuthError
        name = hashlib.blake2b(text.encode(errors="replace"), digest_size=32, key=self._shared.secret).digest()
        grant = self._cached.get(name)
        if grant is None or not self.good(grant):
            self._cached.pop(name, None)
            grant = self._tokens.judge(text, now_ns)
            if len(self._cached) >= TOKENS_CACHED:
                self._cached.clear()
            self._cached[name] = grant
        return grant

    def good(self, grant: Grant) -> bool:
        """Whether one who came in may stay."""
        now_ns = self._clock.now_ns()
        if grant.expires_ns is not None and now_ns >= grant.expires_ns:
            return False
        return not grant.key_id or self._keys.good(grant.key_id, now_ns)

    # --- tickets ---

    def ticket(self, grant: Grant) -> str:
        """A text that lets its bearer in once, as ``grant``, within `TICKET_S`, at any process of this machine."""
        until_ns = self._clock.monotonic_ns() + TICKET_S * SECOND_NS
        body = msgspec.json.encode([secrets.token_urlsafe(12), until_ns, grant])
        return _base64(body) + "." + _base64(self._sign(body))

    def _redeem(self, text: str, now_ns: int) -> Grant:
        try:
            body, signature = (base64.urlsafe_b64decode(part + "==") for part in text.split("."))
        except (ValueError, binascii.Error):
            raise AuthError from None
        if not hmac.compare_digest(self._sign(body), signature):
            raise AuthError
        nonce, until_ns, grant = msgspec.json.decode(body, type=tuple[str, int, Grant])
        monotonic_ns = self._clock.monotonic_ns()
        if monotonic_ns >= until_ns or not self.good(grant):
            raise AuthError
        if not self._shared.use_once(f"ticket {nonce}", until_ns - monotonic_ns, monotonic_ns):
            raise AuthError
        return grant

    def _sign(self, body: bytes) -> bytes:
        return hmac.digest(self._shared.secret, body, "sha256")

    # --- rates ---

    def take_request(self, address: str) -> tuple[int, int, Rate]:
        """One REST request of an address: (ns to wait, requests left, the rate)."""
        return (*self._shared.take(f"requests {address}", self._addresses, self._clock.monotonic_ns()), self._addresses)

    def take_user_request(self, grant: Grant) -> tuple[int, int, Rate] | None:
        """One REST request of a user, likewise; None where users have no bound of their own."""
        if not grant.user:
            return None
        rate = Rate(grant.plan.requests, 2 * grant.plan.requests)
        return (*self._shared.take(f"requests {grant.user}", rate, self._clock.monotonic_ns()), rate)

    def take_message(self, grant: Grant) -> int:
        """One message of a user's WebSockets; 0, or the milliseconds until the next is allowed."""
        rate = Rate(grant.plan.messages, MESSAGES_BURST * grant.plan.messages)
        wait_ns, _ = self._shared.take(f"messages {grant.user}", rate, self._clock.monotonic_ns())
        return -(-wait_ns // MILLISECOND_NS)

    # --- connections ---

    def arrive(self, visit: Visit) -> bool:
        """A connection from an address; False when that has as many as it may."""
        most = self._limits.address_connections
        if self._shared.enter(f"connections {visit.address}", most, self._clock.monotonic_ns()):
            return True
        self.refused += 1
        return False

    def admit(self, visit: Visit, grant: Grant, takeover: bool = False) -> bool:
        """Make a connection a user's; False when the user has as many as their plan has, and none gives way."""
        now_ns = self._clock.monotonic_ns()
        if visit.grant is not None and visit.grant.user == grant.user:  # it has said again who it is
            visit.grant, visit.warned = grant, False
            return True
        self._forget(visit)
        most = grant.plan.connections
        if most:
            subject = f"connections {grant.user}"
            while not self._shared.enter(subject, most, now_ns):
                if not (takeover or grant.plan.takeover) or not self._shared.ask_to_close(subject, now_ns):
                    self.refused += 1
                    return False
        visit.grant = grant
        self._visits.setdefault(grant.user, {})[visit] = None
        if most:
            self._make_room(grant.user, visit)
        return True

    def depart(self, visit: Visit) -> None:
        """A connection that had arrived has ended; after `close` it is nobody's any more."""
        if self._closed:
            return
        self._shared.leave(f"connections {visit.address}", self._clock.monotonic_ns())
        self._forget(visit)

    def _forget(self, visit: Visit) -> None:
        """A connection is no longer its user's."""
        if visit.grant is None:
            return
        user, plan = visit.grant.user, visit.grant.plan
        visit.grant = None
        del self._visits[user][visit]
        if not self._visits[user]:
            del self._visits[user]
        if plan.connections:
            self._shared.leave(f"connections {user}", self._clock.monotonic_ns())

    def _make_room(self, user: str, newest: Visit | None = None) -> None:
        """Close as many of a user's connections here, the oldest first, as this process was asked to."""
        asked = self._shared.asked(f"connections {user}", self._clock.monotonic_ns())
        mine = [visit for visit in self._visits.get(user, {}) if visit is not newest]
        for visit in mine[:asked]:
            if not visit.going:
                visit.going = True
                self.replaced += 1
                visit.replaced()

    # --- time ---

    def look(self) -> None:
        """Look at the file of keys at the next turn: SIGHUP."""
        self._look = True

    def turn(self) -> None:
        """What is due: called at every turn of the loop, and nearly free when nothing is."""
        if self._shared.anyone_asked():
            for user in list(self._visits):
                self._make_room(user)
        now_ns = self._clock.monotonic_ns()
        if self._look or now_ns - self._looked_ns >= LOOK_NS:
            self._look, self._looked_ns = False, now_ns
            if not self.open:
                self._reload()
                self._end_what_has_ended()

    def _reload(self) -> None:
        """Read the file of keys if it has changed; one that cannot be used changes nothing, and is told once."""
        if not self._access.keys or (stamp := _stamp(self._access.keys)) == self._keys_stamp:
            return
        self._keys_stamp = stamp
        try:
            self._keys = keys.read(Path(self._access.keys))
        except FabricError as error:
            _log.error("keys not read again, those from before hold: %s", error)
        else:
            _log.info("%s: %d keys", self._access.keys, len(self._keys.by_id))

    def _end_what_has_ended(self) -> None:
        now_ns = self._clock.now_ns()
        for visit in [visit for mine in self._visits.values() for visit in mine]:
            grant = visit.grant
            if grant is None or visit.going:
                continue
            if not self.good(grant):
                visit.going = True
                self.revoked += 1
                visit.ended()
            elif grant.expires_ns is not None and not visit.warned and grant.expires_ns - now_ns <= WARN_NS:
                visit.warned = True
                visit.warn((grant.expires_ns - now_ns) // MILLISECOND_NS)

    def counters(self) -> dict[str, int]:
        """What was refused and ended; ``full``: how often the shared table had no room."""
        return {
            "failures": self.failures,
            "refused": self.refused,
            "replaced": self.replaced,
            "revoked": self.revoked,
            "keys": len(self._keys.by_id),
            "full": self._shared.full,
        }

    def close(self) -> None:
        """Give the table back, and with it every connection that is still counted."""
        self._closed = True
        self._shared.close()


def _stamp(path: str) -> tuple[int, ...] | None:
    """What changes when a file does."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
