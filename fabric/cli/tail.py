"""``fabric tail``: what is on the bus, decoded, one message a line."""

import json
import time

import click

from fabric.client import Client, Gap, Link, Update


@click.command("tail")
@click.argument("topics", nargs=-1, required=True, metavar="TOPIC...")
@click.option("--topology", "path", default="topology.yaml", show_default=True, help="The topology that is running.")
@click.option("--json", "as_json", is_flag=True, help="Print each message as one JSON object.")
@click.option("-n", "--count", type=click.IntRange(1), help="End after this many messages.")
@click.option("--for", "seconds", type=click.FloatRange(0), help="End after this many seconds.")
def command(topics: tuple[str, ...], path: str, as_json: bool, count: int | None, seconds: float | None) -> None:
    """Print the messages whose topic begins with one of TOPIC..., such as nbbo. or 'nbbo.AAPL|', last values first."""
    left = count
    end = None if seconds is None else time.monotonic() + seconds
    with Client(*topics, topology_file=path) as client:
        while (left is None or left > 0) and (end is None or time.monotonic() < end):
            for event in client.poll(100)[:left]:
                click.echo(_json(event) if as_json else _text(event))
                left = None if left is None else left - 1


def _json(event: Update | Gap | Link) -> str:
    match event:
        case Update(topic, payload):
            return json.dumps({"topic": topic, **payload})
        case Gap(topic, first, last):
            return json.dumps({"topic": topic, "gap": [first, last]})
        case Link(publisher, up):
            return json.dumps({"publisher": publisher, "up": up})


def _text(event: Update | Gap | Link) -> str:
    match event:
        case Update(topic, payload):
            shown = (f"{key}={value}" for key, value in payload.items() if value is not None and key not in "VTS")
            return f"{topic} {' '.join(shown)}"
        case Gap(topic, first, last):
            return f"{topic} -- gap: {first} to {last} lost" if first else f"{topic} -- gap: messages lost"
        case Link(publisher, up):
            return f"-- {publisher} {'is heard' if up else 'is silent: its values are stale'}"
