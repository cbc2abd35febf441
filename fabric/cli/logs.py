"""``fabric logs``: what the nodes have printed."""

import os
import sys
import time
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

import click

from fabric.cli.arguments import folder_option, run_folder
from fabric.control import COMBINED_LOG
from fabric.environment import Environment
from fabric.errors import NotRunningError, UsageError
from fabric.logs import tail

POLL_S = 0.2
READ_MAX = 1 << 16


@click.command("logs")
@click.argument("node", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is printed from now on, until Ctrl-C.")
@click.option("-n", "--lines", type=click.IntRange(min=0), default=100, show_default=True, help="Lines to begin with.")
@folder_option
@click.pass_obj
def command(environment: Environment, node: str | None, follow: bool, lines: int, folder: Path) -> None:
    """Print the last lines of NODE, or of all nodes in the order in which they came; also after the end."""
    place = run_folder(environment, folder)
    path = place.log_path(node or COMBINED_LOG)
    if not path.exists():
        names = sorted(found.stem for found in path.parent.glob("*.log"))
        if node is None or not names:
            raise NotRunningError(f"nothing has run in {place.path.parent}: there are no logs")
        guess = get_close_matches(node, names, n=1)
        hint = f"; did you mean {guess[0]!r}?" if guess else ""
        raise UsageError(f"there is no log of {node!r}{hint} (there are {', '.join(names)})")
    last, end = tail(path, lines)
    output = sys.stdout.buffer
    output.writelines(line + b"\n" for line in last)
    output.flush()
    for data in grown(path, end) if follow else ():
        output.write(data)
        output.flush()
        if not data:
            time.sleep(POLL_S)


def grown(path: Path, position: int) -> Iterator[bytes]:
    """What is appended to a log after ``position``, over its rotation; empty when there is nothing new."""
    file = path.open("rb")
    try:
        file.seek(position)
        while True:
            data = file.read(READ_MAX)
            if not data and _rotated(path, file.fileno()):
                data = file.read(READ_MAX)  # what was written between the two looks
                file.close()
                file = path.open("rb")
            yield data
    finally:
        file.close()


def _rotated(path: Path, descriptor: int) -> bool:
    try:
        return path.stat().st_ino != os.fstat(descriptor).st_ino
    except FileNotFoundError:  # between the two steps of the rotation
        return False
