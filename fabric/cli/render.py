"""``fabric render``: deployment files from the topology."""

import json
from pathlib import Path

import click

from fabric import deployment
from fabric import topology as topologies
from fabric.cli import programs
from fabric.errors import FabricError, UsageError
from fabric.topology_file import hint


@click.command("render")
@click.argument("form", type=click.Choice(deployment.FORMS))
@click.argument("path", metavar="[TOPOLOGY]", default="topology.yaml")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder that the files are written to.")
@click.option("--host", default="", metavar="NAME", help="The nodes of this host, for compose and systemd.")
@click.option("--user", default="fabric", show_default=True, help="Who runs the systemd units.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object: name of each file and its text.")
def command(form: str, path: str, output: Path | None, host: str, user: str, as_json: bool) -> None:
    """Make the files that deploy TOPOLOGY (topology.yaml) with Docker Compose, systemd or Kubernetes.

    Each node runs as `fabric node NAME` under whoever restarts it there, in place of `fabric up`. Without --output the
    files are printed, one after the other.
    """
    topology = topologies.load(path)
    programs.check(topology)
    names = [name for name, _ in topology.hosts]
    if host and host not in names:
        raise UsageError(f"{path} has no host {host!r}{hint(host, names)}")
    if form != "kubernetes" and not host and len(names) > 1:
        raise UsageError(f"{path} has {len(names)} hosts ({', '.join(names)}): say by --host whose files these are")
    files = deployment.render(form, topology, host, user)
    if output is not None:
        try:
            output.mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (output / name).write_text(text)
        except OSError as error:
            raise FabricError(f"{error.filename or output}: {error.strerror}") from None
        files = {str(output / name): text for name, text in files.items()}
    if as_json:
        click.echo(json.dumps(files))
    elif output is not None:
        click.echo("\n".join(files))
    elif len(files) == 1:
        click.echo(next(iter(files.values())), nl=False)
    else:
        click.echo("\n".join(f"# ── {name}\n{text}" for name, text in files.items()), nl=False)
