"""docs/faults.md names, for each promise, the test that shows it: here each of them is found."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
TABLE = TESTS.parent / "docs" / "faults.md"
NAMED = re.findall(r"`(\S+\.py)::(\S+)`", TABLE.read_text())


def names_in(path: Path) -> set[str]:
    """Names as pytest gives them: ``test_x`` or ``TestX::test_x``."""
    body = ast.parse(path.read_text()).body
    functions = {node.name for node in body if isinstance(node, ast.FunctionDef)}
    for node in body:
        if isinstance(node, ast.ClassDef):
            functions |= {f"{node.name}::{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return functions


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_the_test_of_a_promise_exists(file: str, name: str) -> None:
    assert name in names_in(TESTS / file)


def test_every_promise_has_one() -> None:
    rows = [line for line in TABLE.read_text().splitlines() if line.startswith("| ") and "| shown by |" not in line]
    assert len(rows) > 40
    assert all("::test_" in row for row in rows)
