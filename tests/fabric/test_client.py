"""The client for bots: what it gives, and where a group of them goes on."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import zmq

from fabric import keys, topology
from fabric.bus import Outbox
from fabric.client import Client, Event, Link, Update
from fabric.clock import SECOND_NS, SystemClock
from fabric.errors import TopologyError, UnavailableError, UsageError
from fabric.records import KIND_TRADE, TRADE, Rows, empty
from fabric.symbols import SymbolTable
from topologies import free_range

TEXT = """
venues: {{V: {{}}}}
feeds: {{feed: {{wire: iex-tops-1.6, venues: V, lines: ["udp://127.0.0.1:{line}"]}}}}
cache: {{server: off}}
ports: {{base: {base}, span: 10}}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    base = free_range(12)
    file = tmp_path / "topology.yaml"
    file.write_text(TEXT.format(base=base, line=base + 11))
    return file


@pytest.fixture
def outbox(path: Path, context: "zmq.Context[zmq.Socket[bytes]]") -> Iterator[Outbox]:
    loaded = topology.load(path, {})
    (publisher,) = loaded.publishers()
    made = Outbox(context, publisher, SymbolTable(64), loaded.limits, SystemClock(), epoch=1, stamp="feed_ns")
    yield made
    made.close()


def trades(out: Outbox, count: int) -> Rows:
    rows = empty(count, TRADE, KIND_TRADE)
    rows["symbol"], rows["venue"] = out.values.symbols.intern("AAPL"), ord("V")
    rows["price"], rows["size"], rows["event_ns"] = 100_000_000_000, 100, SystemClock().now_ns()
    return rows


def positions(client: Client, out: Outbox, count: int) -> list[int]:
    """Of the next ``count`` updates."""
    found: list[int] = []
    for _ in range(2_000):
        out.tick()
        happened: list[Event] = client.poll(5)
        found += [event.payload["O"] for event in happened if isinstance(event, Update)]
        if len(found) >= count:
            return found
    raise AssertionError(f"{found} {client.counters()}")


def test_a_group_goes_on_where_its_last_client_has_left_off(path: Path, outbox: Outbox) -> None:
    with Client("trade.", topology_file=path, group="bot") as client:
        while not client.counters()["links_up"]:
            outbox.tick()
            client.poll(5)
        outbox.send(trades(outbox, 3))
        assert positions(client, outbox, 3) == [1, 2, 3]
        with pytest.raises(UnavailableError, match="group 'bot': another client"):
            Client("trade.", topology_file=path, group="bot")
        client.poll(0)  # done with these
    outbox.send(trades(outbox, 4))
    with Client("trade.", topology_file=path, group="bot") as client:
        assert positions(client, outbox, 4) == [4, 5, 6, 7]
    with Client("trade.", topology_file=path, group="bot") as client:  # that one had not come back for more
        assert positions(client, outbox, 4) == [4, 5, 6, 7]
        assert client.lags() == {"feed": (0, 0)}


def test_a_broken_file_of_positions_and_a_bad_name_are_told(path: Path) -> None:
    folder = path.parent / ".fabric" / "consumers"
    folder.mkdir(parents=True)
    (folder / "bot.json").write_text("[1")
    with pytest.raises(UsageError, match="holds no positions"):
        Client("trade.", topology_file=path, group="bot")
    with pytest.raises(UsageError, match="expected at most 64"):
        Client("trade.", topology_file=path, group="../bot")


def test_a_client_shows_the_keys_of_its_host(path: Path, context: "zmq.Context[zmq.Socket[bytes]]") -> None:
    public = keys.make_curve(path.parent / "node.key")
    path.write_text(
        path.read_text() + f"hosts: {{local: {{curve_secret_file: node.key, curve_public_key: '{public}'}}}}"
    )
    loaded = topology.load(path, {})
    (publisher,) = loaded.publishers()
    outbox = Outbox(context, publisher, SymbolTable(64), loaded.limits, SystemClock(), epoch=1, stamp="feed_ns")
    with closing(outbox), Client("trade.", topology_file=path) as client:
        heard: list[Event] = []
        deadline = SystemClock().monotonic_ns() + 10 * SECOND_NS
        while Link("feed", up=True) not in heard:
            assert SystemClock().monotonic_ns() < deadline
            outbox.tick()
            heard += client.poll(5)
    (path.parent / "node.key").unlink()
    with pytest.raises(TopologyError, match=r"node\.key: No such file"):
        Client("trade.", topology_file=path)
