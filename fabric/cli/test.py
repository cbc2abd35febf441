"""``fabric test``: format, lint, types and tests of this clone, the same for everyone and for CI."""

import importlib.util
import os
import subprocess
import sys

import click

from fabric.cli.progress import compile_kernels
from fabric.compiled import ROOT
from fabric.errors import FabricError, UnavailableError

CHECKS = {
    "format": ("ruff", "format", "--check", "."),
    "lint": ("ruff", "check", "."),
    "types": ("mypy",),
    # as many at once as there are cores, the tests of one file in one process ...
    "tests": ("pytest", "--ignore=tests/system", "--numprocesses=auto", "--dist=loadfile"),
    # ... but for those of whole topologies, which have processes enough and are about their time
    "system tests": ("pytest", "tests/system"),
}
TOOLS = {"xdist", *(tool[0] for tool in CHECKS.values())}
"""What has to be installed; xdist is what gives pytest its processes."""
TEST_KERNELS = {"NUMBA_BOUNDSCHECK": "1", "FABRIC_KERNEL_CACHE": str(ROOT / ".fabric" / "kernels-checked")}
"""As `tests/conftest.py` sets them: every index of a kernel is checked, and such code is cached apart."""


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[PYTEST ARGUMENTS]")
def command(arguments: tuple[str, ...]) -> int:
    """Check and test this clone.

    Without arguments: format, lint, types, tests; all of them run, and the exit code is that of the first
    that failed. With arguments: pytest with these, nothing else.
    """
    if not (ROOT / "tests").is_dir():
        raise UnavailableError(f"no tests in {ROOT}: `fabric test` needs a clone")
    missing = sorted(name for name in TOOLS if importlib.util.find_spec(name) is None)
    if missing:
        raise UnavailableError(f"{', '.join(missing)} not installed: run `python3 -m fabric test` in {ROOT}")
    codes = {"kernels": _compile()}
    checks = {"tests": ("pytest", *arguments)} if arguments else CHECKS
    for name, tool in checks.items():
        click.secho(f"── {name}: {' '.join(tool)}", bold=True)
        codes[name] = subprocess.run([sys.executable, "-m", *tool], cwd=ROOT, check=False).returncode
    failed = [name for name, code in codes.items() if code]
    if failed:
        click.secho(f"── failed: {', '.join(failed)}", bold=True, err=True)
    return codes[failed[0]] if failed else 0


def _compile() -> int:
    """Fill both caches beforehand, so that no test waits for the compiler; return an exit code."""
    try:
        compile_kernels("compiling kernels")
        compile_kernels("compiling kernels with bounds checks", os.environ | TEST_KERNELS)
    except FabricError as error:
        click.echo(f"fabric: error: {error}", err=True)
        return error.exit_code
    return 0
