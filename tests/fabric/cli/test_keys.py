import json
from pathlib import Path

import pytest

from fabric.cli import main

TOPOLOGY = """
feeds: {iex: {wire: iex-tops-1.6, venues: V, lines: ["udp://127.0.0.1:5490"]}}
venues: {V: {}}
access: {keys: secret/keys.json, plans: {basic: {channels: [quotes]}}}
"""


@pytest.fixture
def topology(tmp_path: Path) -> str:
    path = tmp_path / "t.yaml"
    path.write_text(TOPOLOGY)
    return str(path)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main.run(["keys", *arguments]) == 0
    return capsys.readouterr().out


def test_a_key_from_its_making_to_its_end(topology: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = json.loads(said(capsys, "new", "alice", "--plan", "basic", "--for", "24h", "--json", "-t", topology))
    told = said(capsys, "new", "bob", "-t", topology)
    secret = told.split("secret:  ")[1].split()[0]
    assert f".{secret}" in told
    listed = said(capsys, "list", "-t", topology)
    assert [line.split()[1:4] for line in listed.splitlines()[1:]] == [
        ["alice", "basic", "good"],
        ["bob", "full", "good"],
    ]
    assert made["secret"] not in listed
    assert secret not in listed
    assert "alice: revoked" in said(capsys, "revoke", made["id"], "-t", topology)
    states = [entry["state"] for entry in json.loads(said(capsys, "list", "--json", "-t", topology))]
    assert states == ["revoked", "good"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["new"], "give a USER, or --curve FILE"),
        (["new", "a b"], "user 'a b'"),
        (["new", "a", "--plan", "gold"], "no plan 'gold' (there are full, basic)"),
        (["new", "a", "--for", "soon"], "'soon' is no duration"),
        (["revoke", "FKX"], "no key 'FKX'"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    topology: str, capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    assert main.run(["keys", *arguments, "-t", topology]) == 2
    assert problem in capsys.readouterr().err


def test_without_a_file_of_keys_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(TOPOLOGY.replace("access:", "#"))
    assert main.run(["keys", "list", "-t", str(path)]) == 2
    assert "give access: {keys: keys.json}" in capsys.readouterr().err


def test_a_curve_pair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "node.key"
    made = json.loads(said(capsys, "new", "--curve", str(path), "--json"))
    assert made["secret_file"] == str(path)
    assert made["public"] not in path.read_text()
