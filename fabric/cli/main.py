"""The ``fabric`` command: a group that imports a command's file only when that command is called.

So ``fabric --help`` is quick, and no command waits for numba that does not compile. Each file
``fabric/cli/<name>.py`` holds a click command named ``command``; its line of help stands here too, because
the list must not import it. A command that is refused or fails raises a FabricError: one line on stderr and
its exit code, never a traceback (``FABRIC_DEBUG=1`` shows it); so is what click refuses. A command may return its
exit code.
"""

import importlib
import os
import signal
import sys
from difflib import get_close_matches
from pathlib import Path

import click

import fabric
from fabric import bootstrap, environment
from fabric.errors import FabricError, TopologyError

COMMANDS = {
    "check": "Validate a topology file: every mistake, with its line.",
    "up": "Start a topology and supervise it until Ctrl-C.",
    "down": "Stop the running topology.",
    "status": "Show the nodes of the running topology.",
    "top": "Watch nodes, rates, lag and latency by hop, live.",
    "doctor": "Check this machine: limits, ports, clock, buffers; with the fix for each.",
    "logs": "Show the logs of the nodes.",
    "restart": "Restart one node.",
    "node": "Run one node in the foreground.",
    "endpoints": "Print the addresses that serve a topic.",
    "tail": "Print messages from the bus, decoded.",
    "journal": "Look into the durable log: ls, verify, audit, hash, export.",
    "replay": "Run the topology on a recorded source.",
    "record": "Record the packets that the feeds receive, as capture files.",
    "decode": "Print what a capture file holds.",
    "render": "Make deployment files: compose, systemd, kubernetes.",
    "keys": "Make, list and revoke API keys.",
    "bench": "Run the benchmarks of this clone beside their peers.",
    "test": "Check and test this clone.",
}


class LazyGroup(click.Group):
    """A group whose commands are files of this folder."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in COMMANDS if Path(__file__).with_name(f"{name}.py").exists()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = importlib.import_module(f"fabric.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            guess = get_close_matches(args[0], COMMANDS, n=1)
            raise click.UsageError(f"no command {args[0]!r}" + (f"; did you mean {guess[0]!r}?" if guess else ""), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(fabric.__version__, prog_name="fabric")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Run a market data fabric: exchange packets in, quotes in browsers, bots and Redis out."""
    ctx.obj = environment.read()


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; everything that may go wrong ends here."""
    try:
        returned = cli.main(arguments, prog_name="fabric", standalone_mode=False)
        sys.stdout.flush()
    except click.Abort:  # Ctrl-C; click has ended the line
        return 128 + signal.SIGINT
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        click.echo(f"fabric: error: {_refusal(error)}", err=True)
        return error.exit_code
    except BrokenPipeError:  # the reader left before our last words: `fabric tail nbbo. | head`; click sees the others
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that Python's own flush at exit is quiet
        return 1
    except Exception as error:  # the last resort: a user gets a line, not a traceback
        if os.environ.get("FABRIC_DEBUG"):
            raise
        if isinstance(error, TopologyError):
            click.echo(str(error), err=True)
        elif isinstance(error, FabricError):
            for line in str(error).splitlines():
                click.echo(f"fabric: error: {line}", err=True)
        else:
            what = " ".join(f"{type(error).__name__}: {error}".split())
            click.echo(f"fabric: error: unexpected {what} (FABRIC_DEBUG=1 shows where)", err=True)
        return error.exit_code if isinstance(error, FabricError) else 1
    return returned if isinstance(returned, int) else 0


def _refusal(error: click.ClickException) -> str:
    """What click says of an argument, in one line and in our manner, with the command whose help tells more."""
    said = " ".join(error.format_message().split()).rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    return said[:1].lower() + said[1:] + (f" ({context.command_path} --help)" if context is not None else "")


def main() -> None:
    """Be the ``fabric`` command."""
    bootstrap.open_streams()
    bootstrap.keep_bytecode()  # for whoever calls .venv/bin/fabric; `python3 -m fabric` has done so already
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
