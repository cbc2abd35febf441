"""The exception tree: what the world may do to us, each with a type that its handler can name.

A broken promise of our own code is an ``assert`` or a crash and has no type here. Every message names
the thing, what was found and what was expected. ``exit_code`` is what the ``fabric`` command ends with:
1 runtime failure, 2 usage or bad topology, 69 a dependency is unavailable at start (sysexits EX_UNAVAILABLE).
"""


class FabricError(Exception):
    """Root of every error that a user may see; printed as one line, never as a traceback."""

    exit_code = 1


class UsageError(FabricError):
    """A command line or environment variable that cannot be used as given."""

    exit_code = 2


class TopologyError(FabricError):
    """Every mistake of a topology file, one ``file:line:column: key: problem`` a line."""

    exit_code = 2

    def __init__(self, problems: "list[str]") -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class UnavailableError(FabricError):
    """Something that a start depends on is missing: a port in use, a server that does not answer."""

    exit_code = 69


class CaptureError(FabricError):
    """A capture file that is not what it says: which file, at which byte, what was expected."""


class NotRunningError(FabricError):
    """A command that acts on the running topology found none in this folder."""


class CodecError(FabricError):
    """A bus frame or record that cannot be decoded or encoded; ``reason`` is its counter's label."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class SymbolsFullError(FabricError):
    """The symbol table is full: the name that did not fit and the capacity (`limits.symbols_max`)."""


class StoreError(FabricError):
    """The cache does not answer, refused a command, or is held off by its circuit breaker."""
