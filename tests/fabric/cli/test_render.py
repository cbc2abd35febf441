"""``fabric render``: what it prints and writes, and what it refuses."""

import json
from pathlib import Path

import pytest
import yaml

from fabric.cli.main import run

TOPOLOGY = """
hosts: {a: {}, b: {}}
venues: {V: {}}
feeds: {iex: {wire: iex-tops-1.6, venues: V, lines: ["udp://127.0.0.1:5490"]}}
gateways: {web: {host: b}}
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "t.yaml"
    path.write_text(TOPOLOGY)
    return str(path)


def test_one_file_is_printed_as_it_is(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["render", "compose", file, "--host", "b"]) == 0
    assert "web" in yaml.safe_load(capsys.readouterr().out)["services"]


def test_files_are_written_and_named(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["render", "systemd", file, "--host", "a", "-o", str(tmp_path / "units")]) == 0
    named = capsys.readouterr().out.split()
    assert named == [str(path) for path in map(Path, named)]
    assert sorted(named) == sorted(str(path) for path in (tmp_path / "units").iterdir())
    assert run(["render", "systemd", file, "--host", "a", "--json", "--user", "market"]) == 0
    units = json.loads(capsys.readouterr().out)
    assert len(units) == len(named)
    assert "User=market\n" in units["fabric-iex.service"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["helm"], "'helm' is not one of 'compose', 'systemd', 'kubernetes'"),
        (["compose", "{}"], "has 2 hosts (a, b): say by --host whose files these are"),
        (["compose", "{}", "--host", "c"], "has no host 'c'"),
        (["compose", "{}", "--host", "a", "-o", "{}"], "File exists"),
        (["compose", "/no/such.yaml"], "/no/such.yaml: No such file or directory"),
    ],
)
def test_what_cannot_be_made_is_one_line(
    file: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["render", *(argument.replace("{}", file) for argument in arguments)]) in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
