"""The bus mirrored to Kafka, for those who already run it: what a shop's other programs read there stays as it is.

    processors:
      kafka:
        run: nodes.kafka_bridge:main
        reads: [quote, trade, nbbo]
        shards: [A-Z 0-9]

Channels of venues (`quote`, `trade`, `status`) go to the topic ``raw_quotes``, all others to ``processed_quotes``. The
key is the symbol, so that one partition has all of a symbol in order; the value is the payload of the bus as a JSON
object, with the bus's own topic in the header ``topic``. The brokers are named by the environment variable
KAFKA_BOOTSTRAP_SERVERS (``host:9092,other:9092``); KAFKA_PRODUCER_PROPERTIES (``name=value,name=value``) may set any
property of librdkafka.

At least once: what Kafka has acknowledged is noted by publisher once a second, as a group of consumers notes it, and a
restarted bridge goes on behind it, as far back as the publishers' logs reach. While Kafka takes nothing the bridge
reads nothing; what it misses comes from the logs too. Kafka is never on the path to anyone else.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from fabric import client
from fabric.bus import Inbox
from fabric.clock import SECOND_NS
from fabric.errors import UnavailableError, UsageError
from fabric.node import RECEIVE_MS, Runtime
from fabric.records import VENUE_CHANNELS

RAW, PROCESSED = "raw_quotes", "processed_quotes"
SERVERS, PROPERTIES = "KAFKA_BOOTSTRAP_SERVERS", "KAFKA_PRODUCER_PROPERTIES"
FLUSH_S = 0.5
"""How long a turn waits for Kafka; what has not been acknowledged by then is waited for in the next."""
DEFAULTS = {"linger.ms": 5, "compression.type": "lz4", "enable.idempotence": True, "message.timeout.ms": 0}
"""Batches as Kafka likes them; a message is tried again for ever, in order and once, while the bridge lives."""


class Producer(Protocol):
    """What the bridge uses of `confluent_kafka.Producer`."""

    def produce(self, topic: str, *, value: bytes, key: bytes, headers: Any, on_delivery: Any) -> None: ...
    def poll(self, timeout: float) -> int: ...
    def flush(self, timeout: float) -> int: ...


class Bridge:
    """Rows of the bus in, messages of Kafka out; knows what has been acknowledged."""

    def __init__(self, producer: Producer, inbox: Inbox, runtime: Runtime, positions: client.Positions) -> None:
        self._producer, self._inbox, self._runtime, self._positions = producer, inbox, runtime, positions
        self._kept_ns = 0
        self._counts = dict.fromkeys(("produced", "acknowledged", "kafka_errors", "kafka_full"), 0)

    def turn(self) -> None:
        """Take what is there, hand it on, and note what Kafka has."""
        batch = self._inbox.recv_batch(RECEIVE_MS)
        for event in client.events(batch, self._runtime.symbols, self._inbox.sources):
            if isinstance(event, client.Update):
                self._produce(event)
        self._producer.poll(0)
        now_ns = self._runtime.clock.monotonic_ns()
        if now_ns - self._kept_ns >= SECOND_NS:
            self._kept_ns = now_ns
            self.keep()

    def keep(self) -> None:
        """Wait for Kafka to have all, for a bounded time; note the positions if it has."""
        if self._producer.flush(FLUSH_S) == 0 and not self._counts["kafka_errors"]:
            self._positions.keep(self._inbox.positions(), self._runtime.clock.monotonic_ns())

    def counters(self) -> dict[str, int]:
        """Messages handed to Kafka, acknowledged and refused by it, and how often its queue was full."""
        return {**self._inbox.counters(), **self._counts}

    def _produce(self, update: client.Update) -> None:
        channel = str(update.payload["T"])
        topic = RAW if channel in VENUE_CHANNELS else PROCESSED
        value = json.dumps(update.payload, separators=(",", ":")).encode()
        key, headers = str(update.payload["S"]).encode(), [("topic", update.topic.encode())]
        while not self._runtime.stopping():
            try:
                self._producer.produce(topic, value=value, key=key, headers=headers, on_delivery=self._delivered)
            except BufferError:  # librdkafka holds `queue.buffering.max.messages`: Kafka has to take some first
                self._counts["kafka_full"] += 1
                self._producer.poll(FLUSH_S)
                self._report()
            else:
                self._counts["produced"] += 1
                return

    def _delivered(self, error: object, _: object) -> None:
        if error is None:
            self._counts["acknowledged"] += 1
            return
        self._counts["kafka_errors"] += 1
        self._runtime.log.error("Kafka refuses a message: %s; ending, to begin behind the last acknowledged", error)
        self._runtime.stop()

    def _report(self) -> None:
        self._runtime.report(self.counters)


def configuration(environment: Mapping[str, str]) -> dict[str, Any]:
    """The properties of librdkafka; raises UsageError naming the variable."""
    servers = environment.get(SERVERS, "")
    given = [text.strip() for text in environment.get(PROPERTIES, "").split(",") if text.strip()]
    if wrong := [text for text in given if not text.partition("=")[2]]:
        raise UsageError(f"{PROPERTIES}: {wrong[0]!r}: expected name=value,name=value")
    found: dict[str, Any] = {**DEFAULTS, **dict(text.split("=", 1) for text in given)}
    if servers:
        found["bootstrap.servers"] = servers
    elif "test.mock.num.brokers" not in found:
        raise UsageError(f"{SERVERS} is not set: expected the brokers, such as host:9092,other:9092")
    return found


def main(runtime: Runtime) -> None:
    """The program: mirror until told to stop."""
    try:
        import confluent_kafka
    except ImportError as error:
        raise UnavailableError("the Kafka bridge needs confluent-kafka: pip install 'market-fabric[kafka]'") from error
    settings = configuration(os.environ)
    try:
        producer = confluent_kafka.Producer(settings)
    except confluent_kafka.KafkaException as error:
        raise UsageError(f"{PROPERTIES}: {error.args[0].str()}") from error
    folder = Path(runtime.topology.path).parent / ".fabric" / "consumers"
    positions = client.Positions(folder, runtime.spec.name)
    inbox = runtime.inbox(complete=True)
    inbox.resume(positions.kept)
    bridge = Bridge(producer, inbox, runtime, positions)
    while not runtime.stopping():
        bridge.turn()
        if inbox.ready():
            runtime.ready()
        runtime.report(bridge.counters)
    bridge.keep()
    positions.close()
