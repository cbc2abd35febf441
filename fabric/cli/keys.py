"""``fabric keys``: API keys of the gateways, and CURVE key pairs for nodes."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import click

from fabric import keys, topology
from fabric.cli.arguments import DURATION
from fabric.clock import SECOND_NS
from fabric.errors import UsageError
from fabric.topology import Access

_topology_option = click.option(
    "-t", "--topology", "path", default="topology.yaml", metavar="FILE", help="The topology file (topology.yaml)."
)


@click.group("keys")
def command() -> None:
    """Make, list and revoke the API keys of gateways: those in the file that `access: {keys: FILE}` names.

    A running gateway notices within a second; a revoked key's connections are closed.
    """


@command.command("new")
@click.argument("user", required=False)
@click.option("--plan", default="full", help="What the user may see, and how much: a plan of the topology (full).")
@click.option("--for", "for_ns", type=DURATION, help="The key expires after this time (720h).")
@click.option("--curve", type=click.Path(path_type=Path), metavar="FILE", help="A CURVE key pair instead: the secret "
              "half goes to FILE, the public half is printed.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@_topology_option
def new(user: str | None, plan: str, for_ns: int | None, curve: Path | None, as_json: bool, path: str) -> None:
    """Make a key for USER and print it. Its secret is shown this once and kept nowhere."""
    if (user is None) == (curve is None):
        raise click.UsageError("give a USER, or --curve FILE")
    if curve is not None:
        public = keys.make_curve(curve)
        click.echo(json.dumps({"secret_file": str(curve), "public": public}) if as_json else f'{curve}: "{public}"')
        return
    assert user is not None
    access = _access(path)
    if access.plan(plan) is None:
        raise UsageError(f"{path} has no plan {plan!r} (there are {', '.join(p.name for p in access.plans)})")
    now_ns = time.time_ns()
    key, secret = keys.make(user, plan, now_ns, None if for_ns is None else (now_ns + for_ns) // SECOND_NS)
    keys.add(Path(access.keys), key)
    if as_json:
        click.echo(json.dumps({"id": key.id, "secret": secret, "user": user, "plan": plan, "expires": key.expires}))
        return
    click.echo(f"key:     {key.id}")
    click.echo(f"secret:  {secret}")
    click.echo("The secret is shown this once. As one text, for `Authorization: Bearer` and `X-API-Key`:")
    click.echo(f"{key.id}.{secret}")


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@_topology_option
def listing(as_json: bool, path: str) -> None:
    """List the keys, the oldest first; never a secret, which nobody has."""
    now_ns = time.time_ns()
    found = keys.read(Path(_access(path).keys)).by_id.values()
    states = {key.id: "good" if key.good(now_ns) else "revoked" if key.revoked else "expired" for key in found}
    if as_json:
        names = ("id", "user", "plan", "created", "expires", "revoked")
        entries = [{name: getattr(key, name) for name in names} | {"state": states[key.id]} for key in found]
        click.echo(json.dumps(entries, indent=2))
        return
    rows = [("KEY", "USER", "PLAN", "STATE", "CREATED", "UNTIL")]
    rows += [
        (key.id, key.user, key.plan, states[key.id], _day(key.created), _day(key.revoked or key.expires))
        for key in found
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@command.command("revoke")
@click.argument("key")
@_topology_option
def revoke(key: str, path: str) -> None:
    """Revoke KEY: it opens nothing any more, and what it has opened is closed."""
    revoked = keys.revoke(Path(_access(path).keys), key, time.time_ns())
    click.echo(f"{revoked.id} of {revoked.user}: revoked")


def _access(path: str) -> Access:
    access = topology.load(path).access
    if not access.keys:
        raise UsageError(f"{path} names no file of keys: give access: {{keys: keys.json}}")
    return access


def _day(seconds: int | None) -> str:
    return "" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}Z"
