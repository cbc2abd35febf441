"""``fabric endpoints``: where a raw SUB socket connects for a topic prefix."""

import json

import click

from fabric import topology


@click.command("endpoints")
@click.argument("topic")
@click.argument("path", metavar="[TOPOLOGY]", default="topology.yaml")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def command(topic: str, path: str, as_json: bool) -> None:
    """Print the addresses, one a line, that a raw SUB must connect to for TOPIC, such as nbbo. or 'nbbo.AAPL|'."""
    found = topology.endpoints(topology.load(path), topic)
    click.echo(json.dumps(found) if as_json else "\n".join(found))
