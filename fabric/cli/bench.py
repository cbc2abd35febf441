"""``fabric bench``: the benchmarks of this clone, each ours beside its peers or its limit."""

import ast
import subprocess
import sys
from pathlib import Path

import click

from fabric.cli.progress import compile_kernels
from fabric.compiled import ROOT
from fabric.errors import UnavailableError, UsageError

PREFIX = "bench_"


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("name", required=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option("--list", "only_list", is_flag=True, help="Name the benchmarks and what each measures.")
def command(name: str | None, arguments: tuple[str, ...], only_list: bool) -> int:
    """Run the benchmark NAME with its own ARGUMENTS; without NAME all, one after another, which takes an hour.

    Figures move with the machine and its load; the ratio to the peer in the same run is what counts. Some peers are
    packages of their own (`pip install '.[bench]'`) or servers; most benchmarks leave out what is not there.
    """
    files = _benchmarks()
    if only_list:
        width = max(map(len, files))
        for known, path in files.items():
            click.echo(f"{known:<{width}}  {_title(path)}")
        return 0
    if name is not None and name not in files:
        raise UsageError(f"no benchmark {name!r}: there are {', '.join(files)}")
    compile_kernels("compiling kernels")
    codes = {}
    for chosen in [name] if name is not None else files:
        click.secho(f"── {chosen}: {_title(files[chosen])}", bold=True)
        codes[chosen] = subprocess.run([sys.executable, files[chosen], *arguments], cwd=ROOT, check=False).returncode
    failed = [chosen for chosen, code in codes.items() if code]
    if failed:
        click.secho(f"── failed: {', '.join(failed)}", bold=True, err=True)
    return codes[failed[0]] if failed else 0


def _benchmarks() -> dict[str, Path]:
    """The programs of the clone by name; raises UnavailableError where there is no clone."""
    folder = ROOT / "benchmarks"
    if not folder.is_dir():
        raise UnavailableError(f"no benchmarks in {ROOT}: `fabric bench` needs a clone")
    return {path.stem.removeprefix(PREFIX): path for path in sorted(folder.glob(f"{PREFIX}*.py"))}


def _title(path: Path) -> str:
    """The first sentence of what a program says of itself."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(text.split("\n\n")[0].split()).partition(". ")[0].rstrip(".")
