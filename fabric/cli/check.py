"""``fabric check``: validate a topology; every mistake at once."""

import json
from dataclasses import asdict

import click

from fabric import topology
from fabric.cli import programs
from fabric.errors import TopologyError
from fabric.topology import GatewaySettings, NodeSpec


@click.command("check")
@click.argument("path", metavar="[TOPOLOGY]", default="topology.yaml")
@click.option("--json", "as_json", is_flag=True, help="Print problems and nodes as JSON.")
def command(path: str, as_json: bool) -> int:
    """Validate TOPOLOGY (topology.yaml) and show what it starts; every mistake as file:line:column: key: problem."""
    try:
        found = topology.load(path)
        programs.check(found)
    except TopologyError as error:
        if not as_json:
            raise
        click.echo(json.dumps({"valid": False, "problems": error.problems}, indent=2))
        return error.exit_code
    if as_json:
        click.echo(json.dumps({"valid": True, "problems": [], "nodes": [asdict(n) for n in found.nodes]}, indent=2))
        return 0
    click.echo(f"{path}: valid, {len(found.nodes)} nodes, in start order:")
    rows = [_row(node) for node in found.nodes]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    click.echo(f"cache: {found.cache.mode} {_servers(found.cache.servers)}".rstrip())
    return 0


def _row(node: NodeSpec) -> tuple[str, str, str, str]:
    """Name, role, address, and what it publishes."""
    match node.settings:
        case GatewaySettings(host=host, port=port):
            address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        case _:
            address = node.publishes.endpoint if node.publishes else ""
    publishes = node.publishes
    shard = f" [{publishes.letters}]" if publishes and publishes.letters else ""
    return node.name, node.role, address, (", ".join(publishes.channels) + shard) if publishes else ""


def _servers(urls: tuple[str, ...]) -> str:
    """The addresses without user and password."""
    return " ".join(url if "@" not in url else f"{url.split('://')[0]}://{url.rpartition('@')[2]}" for url in urls)
