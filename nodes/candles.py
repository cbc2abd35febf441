"""Trades in, candles of 1 minute, 5 minutes, 1 hour and 1 day out: the node. It owns the arrays, the kernel the rule.

A bar covers ``[start, end)`` by exchange time in UTC; a day is one of New York, midnight to midnight; an hour begins at
the full hour, or where the topology says so (``hours: open``) as the regular session does, at 09:30, 10:30, ... What a
trade changes is a matter of its sale conditions, by the table of its tape (`nodes.sale_conditions`): open, high and low
by one right, close by another, volume and count by a third; the volume-weighted price is over the trades that count
for both volume and high/low. A bar of nothing but odd lots has a volume and no prices. No trade, no bar. Trades of
extended hours give no prices either, but in a series of their own (``session: ext``) they do.

The close is the last price of the interval, and the last price is a matter of the whole day: some trades set it only
as the day's first, or after one of the same participant (`fabric.reference.LAST_RULES`). So a bar whose only trade was
reported out of sequence has an open, a high, a low and no close. Official prints repeat what was traded; those of the
listing market are ``oo`` and ``oc`` of the day, whose open is the official one on tapes A and B.

Life of a bar:

* While it runs it is revision 0, published when changed, each second at most (`publish_every_ns`); a day with each
  minute of its symbol that closes.
* It closes, revision 1, when the exchange time is `grace_ns` past its end; behind the bars of an interval a row of the
  empty symbol says that all were published, and how many.
* A trade, cancel or correction that comes later revises it at once, revision + 1, until `horizon_ns` past the end of
  its minute.
* Then it is published once more, unchanged, as final. What comes later is counted and not applied.

Exchange time is the latest time in any trade or status, carried on by the monotonic clock, so a quiet minute
closes too and a step of the wall clock closes nothing. The wall clock only guards against a broken clock at
an exchange: no trade takes the time further than the wall clock is, so that one whose clock is ahead begins no bar
before its time and closes none of the others' too early. Its trades count in the minute that they say, which
is told when it has begun; those more than five seconds ahead are counted (``skew``) and kept in the running bar. Under
event time (a replay) the clock is the events themselves, nothing is carried or guarded, and the rows with a revision
above 0 are a function of the rows read.

``gap`` is 1 on a bar in which trades may be missing: a message of its symbol was lost, the line or publisher of a
venue on which the symbol trades was down, or the interval began before this process heard its first publisher: after
a restart that could not go on from its logs (`fabric.recovery`) the bars in progress hold the trades since then only.
(A replay begins with its data: there nothing was before.) It is also 1 on the bars of the moment in which a cancel or
correction came of a trade that is not known here.
"""

import numpy as np

from fabric import node
from fabric.bus import EVENTS_MAX
from fabric.clock import MILLISECOND_NS, SECOND_NS, Clock
from fabric.node import Runtime
from fabric.records import BAR, Rows, venue_mask
from fabric.recovery import Arrays
from fabric.reference import HOUR_NS, OPEN_NS, calendar
from fabric.topology import ProcessorSettings
from nodes import candles_kernel, sale_conditions

AHEAD_MAX_NS = 5 * SECOND_NS
"""How far ahead of the wall clock an exchange's time is believed."""
ROWS_MAX = 16_384
"""Rows that one step returns, so that the end of an hour does not overrun what a subscriber's queue holds."""
BACKLOG_MAX = 8 * ROWS_MAX
"""Rows that may wait for the next steps; with more, all are returned at once."""
LOG_MAX = 1 << 21
"""Trades whose details are kept, for cancels and for closes that depend on order: 48 bytes each, when it is reached."""
STEPPED, PUBLISHED, MADE, SENT = range(4)
"""What a step leaves to the next: monotonic times of the last one and of the last publishing, rows made and sent."""
CHANNELS = ("bar.1m", "bar.5m", "bar.1h", "bar.1d")
HOURS_NS = {"clock": 0, "open": OPEN_NS % HOUR_NS}
"""`ProcessorSettings.hours`: how long after the full hour a bar of an hour begins. New York's clock differs from UTC by
whole hours.
"""
GATHER_NS = 10 * MILLISECOND_NS
"""Trades may gather for so long: a bar in progress goes out once a second, a revision is not urgent."""


class Candles:
    """The candles of some symbols."""

    def __init__(
        self,
        symbols_max: int,
        publishers: tuple[str, ...],
        batch_max: int,
        clock: Clock,
        *,
        event_time: bool = False,
        publish_every_ns: int = SECOND_NS,
        grace_ns: int = SECOND_NS,
        horizon_ns: int = 900 * SECOND_NS,
        silence_ns: int = 2_500_000_000,
        channels: tuple[str, ...] = CHANNELS,
        log_max: int = LOG_MAX,
        hours: str = "clock",
        session: str = "regular",
    ) -> None:
        """``publishers`` are the venue letters that each source of the inbox speaks for; ``batch_max`` is without the
        inbox's rows about links; ``clock`` gives the monotonic time; with ``event_time`` the ``now_ns`` of `step` is
        the time of the events; ``channels`` are those that are published; ``log_max`` is a power of two; ``hours`` is a
        key of `HOURS_NS`; ``session`` as `sale_conditions.sale_table` has it.
        """
        days = calendar()
        self.plan = candles_kernel.make_plan(
            grace_ns,
            horizon_ns,
            silence_ns,
            np.array([venue_mask(letters) for letters in publishers], np.int64),
            sale_conditions.sale_table(session=session),
            sale_conditions.listing(),
            days.midnights,
            days.closes,
            np.array([channel in channels for channel in CHANNELS], np.int64),
            HOURS_NS[hours],
        )
        self.bars = candles_kernel.no_bars(symbols_max, self.plan, log_max)
        if not event_time:  # each publisher is down until its first LINK row says otherwise
            self.bars.state[candles_kernel.DOWN + candles_kernel.BY_LINK] = np.bitwise_or.reduce(self.plan.publishers)
        self._clock = clock
        self._event_time = event_time
        self._publish_every_ns = publish_every_ns
        self._turn = np.zeros(4, np.int64)
        self._turn[[STEPPED, PUBLISHED]] = clock.monotonic_ns()
        # Zeroed pages cost nothing until the worst case, a jump of time by more than the horizon, writes to them.
        rows_max = candles_kernel.rows_max(symbols_max, batch_max + EVENTS_MAX, horizon_ns)
        self._out = np.zeros(BACKLOG_MAX + rows_max, BAR)

    def step(self, batch: Rows, now_ns: int) -> Rows:
        """Apply rows of any kinds in the order of arrival; return bars that are due, good until the next step."""
        monotonic_ns = self._clock.monotonic_ns()
        stepped_ns, published_ns, made, sent = self._turn.tolist()
        if self._event_time:
            # The clock has seen this batch already: it tells the time behind these rows, and they their own.
            carried_ns = int(self.bars.state[candles_kernel.CLOCK]) if batch.size else now_ns
            latest_ns = candles_kernel.NO_LIMIT
        else:
            carried_ns = int(self.bars.state[candles_kernel.CLOCK]) + monotonic_ns - stepped_ns
            latest_ns = now_ns + AHEAD_MAX_NS
        publish = monotonic_ns - published_ns >= self._publish_every_ns
        if publish:
            published_ns = monotonic_ns
        if sent == made:
            made = sent = 0
        made = candles_kernel.step(
            self.bars, self.plan, *candles_kernel.views(batch), now_ns, carried_ns, latest_ns, publish,
            self._out, made,
        )  # fmt: skip
        until = made if made > BACKLOG_MAX else min(made, sent + ROWS_MAX)
        self._turn[:] = monotonic_ns, published_ns, made, until
        return self._out[sent:until]

    def arrays(self) -> Arrays:
        """All that `step` may change."""
        return {**self.bars._asdict(), "turn": self._turn, "out": self._out}

    def used(self, symbols: int) -> Arrays:
        """The same as far as ``symbols`` can have touched it; of the log of trades, what has been written."""
        found = self.arrays()
        for name in ("minutes", "marks", "revs", "members"):
            found[name] = found[name][:, :symbols]
        for name in ("days", "official", "venues"):
            found[name] = found[name][:symbols]
        found["log"] = self.bars.log[: int(self.bars.state[candles_kernel.LOGGED])]
        found["out"] = self._out[: int(self._turn[MADE])]
        del found["scratch"]
        return found

    def warm_up(self) -> None:
        """Compile, or load, the kernel before the first trade."""
        candles_kernel.warm_up()

    def counters(self) -> dict[str, int]:
        """Totals since the start, by the names in `candles_kernel.COUNTERS`, and trades by plan and unknown code."""
        totals = dict(zip(candles_kernel.COUNTERS, self.bars.counters.tolist(), strict=True))
        for plan, code in np.argwhere(self.bars.unknown).tolist():
            name = chr(code) if 0x20 < code < 0x7F else f"{code:#04x}"
            totals[f"unknown_condition_{('cta', 'utp')[plan]}_{name}"] = int(self.bars.unknown[plan, code])
        return totals


def main(runtime: Runtime) -> None:
    """The program: one shard's candles until told to stop."""
    settings, limits = runtime.spec.settings, runtime.topology.limits
    assert isinstance(settings, ProcessorSettings)
    assert runtime.spec.publishes is not None
    processor = Candles(
        limits.symbols_max,
        tuple(source.publisher.venues for source in runtime.spec.reads),
        limits.batch_max,
        runtime.turn,
        event_time=runtime.event_time,
        silence_ns=limits.stale_after_ns,
        channels=runtime.spec.publishes.channels,
        hours=settings.hours,
        session=settings.session,
    )
    node.run(processor, runtime.inbox(GATHER_NS), runtime.outbox(), runtime)
