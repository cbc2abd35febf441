"""The bridge against librdkafka's own mock cluster, over TCP: every message, by symbol, at least once."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
import zmq

from fabric.bus import Outbox
from fabric.clock import SystemClock
from fabric.errors import UsageError
from fabric.node import Runtime
from fabric.records import KIND_NBBO, KIND_QUOTE, NBBO, PRICE_UNIT, QUOTE, Rows, empty
from fabric.symbols import SymbolTable
from fabric.topology import JournalSettings, Limits, NodeSpec, ProcessorSettings, Publisher, Source, Topology
from nodes import kafka_bridge
from support import free_port

PATIENCE_S = 20.0
LIMITS = Limits(symbols_max=64)


@pytest.fixture(scope="module")
def brokers() -> Iterator[str]:
    """The address of a mock cluster; the producer that owns it lives as long."""
    owner = confluent_kafka.Producer({"test.mock.num.brokers": 2, "log_level": 0})
    for topic in (kafka_bridge.RAW, kafka_bridge.PROCESSED):  # asking makes it
        found = owner.list_topics(topic, timeout=PATIENCE_S).brokers.values()
    yield ",".join(f"{broker.host}:{broker.port}" for broker in found)
    owner.flush(1)


class Market:
    """A publisher of quotes and NBBOs, with a log."""

    def __init__(self, folder: Path, context: "zmq.Context[zmq.Socket[bytes]]") -> None:
        pub, router = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
        settings = JournalSettings(str(folder / "logs"), bytes_max=8 << 20)
        self.publisher = Publisher("feed", pub, router, ("quote", "trade", "status", "nbbo"), "V", journal=settings)
        self.symbols, self.sent = SymbolTable(64), 0
        self.outbox = Outbox(context, self.publisher, self.symbols, LIMITS, SystemClock(), epoch=1, stamp="feed_ns")
        spec = NodeSpec("kafka", "processor", "nodes.kafka_bridge:main", ProcessorSettings("V", ""), None,
                        (Source(self.publisher, ("quote.", "nbbo.")),))  # fmt: skip
        self.topology = Topology(str(folder / "topology.yaml"), (spec,), (), limits=LIMITS)

    def publish(self, *names: str) -> None:
        for kind, dtype in ((KIND_QUOTE, QUOTE), (KIND_NBBO, NBBO)):
            rows: Rows = empty(len(names), dtype, kind)
            rows["symbol"] = [self.symbols.intern(name) for name in names]
            rows["venue"] = ord("V") if kind == KIND_QUOTE else 0
            rows["bid_px"], rows["bid_size"], rows["event_ns"] = 185 * PRICE_UNIT + PRICE_UNIT // 2, 100, 1
            self.outbox.send(rows)
        self.sent += len(names)

    @contextmanager
    def bridge(self) -> Iterator[None]:
        runtime = Runtime(self.topology, self.topology.node("kafka"), 1)
        thread = threading.Thread(target=kafka_bridge.main, args=(runtime,))
        thread.start()
        try:
            yield
        finally:
            runtime.stop()
            thread.join()
            runtime.close()

    def until(self, happened: Callable[[], Any]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not happened():
            assert time.monotonic() < deadline, "never happened"
            self.outbox.tick()
            time.sleep(0.005)


class Taken:
    """What a consumer reads of both topics, from the beginning."""

    def __init__(self, brokers: str) -> None:
        settings = {"bootstrap.servers": brokers, "group.id": str(time.time_ns()), "auto.offset.reset": "earliest"}
        self.consumer = confluent_kafka.Consumer(settings)
        self.consumer.subscribe([kafka_bridge.RAW, kafka_bridge.PROCESSED])
        self.messages: dict[tuple[str, str], list[int]] = {}
        self.payloads: list[tuple[str, dict[str, Any], Any]] = []

    def read(self) -> None:
        for message in self.consumer.consume(500, 0.05):
            assert message.error() is None
            payload = json.loads(message.value())
            self.messages.setdefault((message.topic(), message.key().decode()), []).append(payload["N"])
            self.payloads.append((message.topic(), payload, message.headers()))

    def whole(self, count: int, names: tuple[str, ...]) -> bool:
        self.read()
        topics = (kafka_bridge.RAW, kafka_bridge.PROCESSED)
        return all(max(self.messages.get((topic, name), [0])) == count for topic in topics for name in names)

    def close(self) -> None:
        self.consumer.close()


def test_all_is_mirrored_by_symbol_in_order_and_a_restart_goes_on(
    tmp_path: Path, context: "zmq.Context[zmq.Socket[bytes]]", brokers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(kafka_bridge.SERVERS, brokers)
    market = Market(tmp_path, context)
    names = ("AAPL", "MSFT", "BRK.B")
    with closing(market.outbox), closing(Taken(brokers)) as taken:
        with market.bridge():
            market.until(lambda: market.outbox.readers == 1)
            for _ in range(200):
                market.publish(*names)
            market.until(lambda: taken.whole(200, names))
        for _ in range(50):  # while no bridge is there
            market.publish(*names)
        with market.bridge():
            for _ in range(200):
                market.publish(*names)
            market.until(lambda: taken.whole(450, names))
    for (topic, name), numbers in taken.messages.items():
        assert numbers == list(range(1, 451)), (topic, name)
    raw = next(payload for topic, payload, _ in taken.payloads if topic == kafka_bridge.RAW)
    assert (raw["T"], raw["bp"], raw["bs"], raw["ap"]) == ("quote", 185.5, 100, None)
    assert {headers[0][1] for topic, payload, headers in taken.payloads if payload["S"] == "AAPL"} == {
        b"quote.AAPL|V", b"nbbo.AAPL|",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        ({}, "KAFKA_BOOTSTRAP_SERVERS is not set"),
        ({"KAFKA_BOOTSTRAP_SERVERS": "x:1", "KAFKA_PRODUCER_PROPERTIES": "acks"}, "'acks': expected name=value"),
    ],
)
def test_a_wrong_setting_is_named(environment: dict[str, str], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        kafka_bridge.configuration(environment)


def test_a_property_of_librdkafka_goes_before_the_default() -> None:
    found = kafka_bridge.configuration({"KAFKA_BOOTSTRAP_SERVERS": "x:1", "KAFKA_PRODUCER_PROPERTIES": "linger.ms=50"})
    assert (found["bootstrap.servers"], found["linger.ms"]) == ("x:1", "50")
