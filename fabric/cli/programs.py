"""Whether the programs that a topology names are there, before a node dies ten times of it; none is imported."""

import ast
import importlib.util
from difflib import get_close_matches
from pathlib import Path

from fabric.errors import TopologyError
from fabric.topology import Topology


def check(topology: Topology) -> None:
    """Raise TopologyError for the nodes that start here whose program, ``module:function``, this machine has not."""
    found: dict[str, tuple[str, str]] = {}  # program -> the first node that runs it, and what is wrong with it
    for node in topology.local_nodes():
        if node.run not in found:
            found[node.run] = node.name, _problem(node.run)
    problems = [f"{topology.path}: node {name!r}: run: {problem}" for name, problem in found.values() if problem]
    if problems:
        raise TopologyError(problems)


def _problem(program: str) -> str:
    name, _, function = program.partition(":")
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:  # a package that it would be in
        return f"{program!r}: no module {error.name!r}"
    except ImportError:
        return ""  # a package with a problem of its own, which its node will tell better
    if spec is None:
        return f"{program!r}: no module {name!r}"
    if spec.origin is None or not spec.origin.endswith(".py"):
        return ""
    names = _names(ast.parse(Path(spec.origin).read_bytes(), spec.origin))
    if function in names or "*" in names:
        return ""
    guess = get_close_matches(function, names, n=1)
    return f"{program!r}: {spec.origin} has no {function!r}" + (f"; did you mean {guess[0]!r}?" if guess else "")


def _names(tree: ast.Module) -> list[str]:
    """What a module defines or imports at its top level, as far as its text tells."""
    found = []
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.append(name)
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                found += [alias.asname or alias.name for alias in names]
            case ast.Assign(targets=targets):
                found += [target.id for target in targets if isinstance(target, ast.Name)]
            case ast.If() | ast.Try() | ast.With():
                found.append("*")  # not to be told from the text
            case _:
                pass
    return found
