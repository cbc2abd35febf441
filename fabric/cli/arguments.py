"""Types of arguments and options that several commands share."""

import re
from pathlib import Path
from typing import Any

import click

from fabric.control import RunFolder
from fabric.environment import Environment

_UNITS_NS = {"us": 1_000, "ms": 1_000_000, "s": 1_000_000_000, "m": 60_000_000_000, "h": 3_600_000_000_000}


class Duration(click.ParamType[int]):
    """A time such as ``30s``, ``500ms``, ``1.5m``: nanoseconds. The unit is never left out."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):  # a default
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms|s|m|h)", str(value).strip(), re.ASCII)
        if found is None:
            self.fail(
                f"{value!r} is no duration: expected a number with its unit, such as 30s, 500ms or 2m", param, ctx
            )
        nanoseconds = round(float(found[1]) * _UNITS_NS[found[2]])
        if nanoseconds <= 0:
            self.fail(f"{value!r} is too short", param, ctx)
        return nanoseconds


DURATION = Duration()

folder_option = click.option(
    "-C",
    "--folder",
    type=click.Path(path_type=Path),
    default=Path(),
    help="Folder of the topology file that runs (default: this one).",
)


def run_folder(environment: Environment, topology: Path | str) -> RunFolder:
    """The run folder of a topology file or of the folder it stands in; ``FABRIC_RUN_DIR`` goes before both."""
    return RunFolder(environment.run_dir) if environment.run_dir else RunFolder.beside(topology)
