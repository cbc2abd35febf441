"""The slow, obvious twin of `nodes.feeds.sequencer`: lists, one stream at a time, no memory limits."""

from dataclasses import dataclass, field, replace

LEAP, FAR_BEHIND = 16_384, 65_536
RESTART_AFTER_NS, QUIET_NS = 50_000_000, 1_000_000_000

Event = tuple[str, int, bytes] | tuple[str, int, int]
"""("message", number, body), ("gap", first, stop) or ("restart", session, 0)."""


@dataclass
class Block:
    first: int
    bodies: list[bytes]  # empty: a heartbeat
    session: int = 1
    sent_ns: int = 0
    line: int = 0
    stream: int = 0
    held_ns: int = 0

    @property
    def stop(self) -> int:
        return self.first + len(self.bodies)


@dataclass
class Stream:
    """One stream that may begin anew under the same session; ``window`` 0 has no limit.

    With ``last`` its numbers go on with 1 after that one: inside they are counted on, in ``events`` they are the own.
    """

    wait_ns: int
    window: int
    lines: int
    last: int = 0
    session: int | None = None
    expected: int = 0
    told: int = 0
    held: list[Block] = field(default_factory=list)
    told_ns: int = -(2**63)
    moved_ns: int = -(2**63)
    progress_ns: int | None = None
    sent_ns: int = 0
    void_ns: int = 0
    suspect: Block | None = None
    ended: list[int] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    @property
    def waiting(self) -> bool:
        return bool(self.held) or self.told > self.expected

    def take(self, block: Block, now_ns: int) -> None:
        if self.session is None:
            self.session, self.expected, self.told = block.session, block.first, block.first
        if self.last:
            own, round_ = self._own(block.first), (self.expected - 1) // self.last
            rounds = [own + self.last * k for k in (round_ - 1, round_, round_ + 1)]
            near = [n for n in rounds if max(1, self.expected - FAR_BEHIND) <= n <= self.expected + LEAP]
            block = replace(block, first=near[0] if near else rounds[1])
        what = self._verdict(block, now_ns)
        if what == "late":
            return
        if what != "normal":
            known = self.suspect
            if known is None or known.session != block.session or (
                what != "session" and abs(known.first - block.first) > LEAP
            ):  # fmt: skip
                self.suspect = block
                return
            self._believe(what, now_ns)
            self.take(block, now_ns)
            return
        if self.suspect and self.suspect.session == self.session:
            self.suspect = None
        self.sent_ns = max(self.sent_ns, block.sent_ns)
        if not block.bodies:
            if block.first > self.told:
                self.told, self.told_ns = block.first, now_ns
        elif block.first <= self.expected < block.stop:
            self._put(block, now_ns)
            self.moved_ns = now_ns
            self._release(now_ns)
        elif block.first > self.expected:
            while block.first > self.expected and self.window and len(self.held) >= self.window:
                self._give_up(min(self._hole(), block.first), now_ns)
            if block.first <= self.expected:
                self.take(block, now_ns)
                return
            before = [held for held in self.held if held.first <= block.first]
            if not before or before[-1].stop < block.stop:
                block.held_ns = now_ns
                self.held.insert(len(before), block)
            self.told = max(self.told, block.stop)

    def pass_time(self, now_ns: int) -> None:
        while self.waiting and now_ns - max(self.moved_ns, self._shown_ns()) >= self.wait_ns:
            self._give_up(self._hole(), now_ns)

    def flush(self, now_ns: int) -> None:
        while self.waiting:
            self._give_up(self._hole(), now_ns)
        if self.suspect:
            self._believe("session" if self.suspect.session != self.session else "other", now_ns)
            self.flush(now_ns)

    def _verdict(self, block: Block, now_ns: int) -> str:
        if block.session != self.session:
            return "late" if block.session in self.ended[-8:] else "session"
        if block.line >= self.lines:
            return "normal"
        behind = self.expected - block.first
        if block.sent_ns:
            if block.sent_ns <= self.void_ns:
                return "late"
            if behind > 0 and (behind > FAR_BEHIND or block.sent_ns > self.sent_ns + RESTART_AFTER_NS):
                return "back"
        elif self.session == 0 and behind > 0:
            quiet = not self.waiting and self.progress_ns is not None and now_ns - self.progress_ns > QUIET_NS
            if behind > FAR_BEHIND or quiet:
                return "back"
        return "leap" if block.first > self.told + LEAP else "normal"

    def _believe(self, what: str, now_ns: int) -> None:
        block = self.suspect
        assert block is not None
        self.suspect = None
        if what != "leap" and (block.session != self.session or block.first < self.expected):
            while self.waiting:
                self._give_up(self._hole(), now_ns)
            if block.session != self.session:
                self.ended.append(self.session or 0)
                self.void_ns = 0
            else:
                self.void_ns = self.sent_ns if block.sent_ns > self.sent_ns else 0
            self.session, self.sent_ns = block.session, block.sent_ns
            self.expected = self.told = 1
            block.first = self._own(block.first)
            self.events.append(("restart", block.session, 0))
        if block.bodies:
            block.held_ns = now_ns
            self.held.append(block)
            self.held.sort(key=lambda held: held.first)
        self.told = max(self.told, block.stop)
        self.told_ns = self.progress_ns = self.moved_ns = now_ns
        self._release(now_ns)

    def _put(self, block: Block, now_ns: int) -> None:
        for number, body in enumerate(block.bodies, block.first):
            if number == self.expected:
                self.events.append(("message", self._own(number), body))
                self.expected += 1
        self.told = max(self.told, self.expected)
        self.progress_ns = now_ns

    def _release(self, now_ns: int) -> None:
        while self.held and self.held[0].first <= self.expected:
            block = self.held.pop(0)
            if block.stop > self.expected:
                self._put(block, now_ns)

    def _own(self, number: int) -> int:
        """The exchange's number of a message."""
        return (number - 1) % self.last + 1 if self.last else number

    def _shown_ns(self) -> int:
        return self.held[0].held_ns if self.held else self.told_ns

    def _hole(self) -> int:
        return self.held[0].first if self.held else self.told

    def _give_up(self, stop: int, now_ns: int) -> None:
        if stop > self.expected:
            first = self._own(self.expected)
            self.events.append(("gap", first, first + stop - self.expected))
            self.expected = stop
            self.told = max(self.told, stop)
        self._release(now_ns)
