"""The file of API keys: what it holds, how it changes, and what it refuses."""

import json
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest

from fabric import keys
from fabric.clock import SECOND_NS
from fabric.errors import FabricError, UsageError

NOW_NS = 1_767_366_000 * SECOND_NS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "keys.json"


def test_a_secret_has_256_bits_and_only_its_hash_is_kept(path: Path) -> None:
    key, secret = keys.make("alice", "full", NOW_NS)
    assert re.fullmatch(r"FK[A-Z2-7]{18}", key.id)
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", secret)
    keys.add(path, key)
    assert secret not in path.read_text()
    assert keys.read(path).find(key.id, secret, NOW_NS) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_hash_is_sha256(path: Path) -> None:
    """FIPS 180-2, appendix B.1."""
    assert keys.digest("abc") == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_wrong_revoked_and_ended_keys_open_nothing(path: Path) -> None:
    key, secret = keys.make("alice", "full", NOW_NS, expires=NOW_NS // SECOND_NS + 1)
    keys.add(path, key)
    found = keys.read(path)
    assert found.find(key.id, secret + " ", NOW_NS) is None
    assert found.find("FKNOBODY", secret, NOW_NS) is None
    assert found.find(key.id, secret, NOW_NS + SECOND_NS) is None
    assert keys.revoke(path, key.id, NOW_NS).revoked == NOW_NS // SECOND_NS
    assert keys.read(path).find(key.id, secret, NOW_NS) is None
    assert not keys.read(path).good(key.id, NOW_NS)
    with pytest.raises(UsageError, match="revoked already"):
        keys.revoke(path, key.id, NOW_NS)
    with pytest.raises(UsageError, match="no key 'FKX'"):
        keys.revoke(path, "FKX", NOW_NS)


@pytest.mark.parametrize("user", ["", " ", "a b", "-a", "x" * 65, "a\n", "é"])
def test_a_user_has_a_plain_name(user: str) -> None:
    with pytest.raises(UsageError, match="user"):
        keys.make(user, "full", NOW_NS)


def test_no_file_is_no_keys(path: Path) -> None:
    assert keys.read(path).by_id == {}


GOOD = asdict(keys.make("alice", "full", NOW_NS)[0])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not a file of keys"),
        ("[]", "not a file of keys"),
        ("{}", "'version'"),
        ('{"version": 2, "keys": []}', "knows version 1 of the file, found 2"),
        ('{"version": 1, "keys": [3]}', "not a file of keys"),
        (json.dumps({"version": 1, "keys": [GOOD | {"hash": "md5:x"}]}), "not one of ours"),
        (json.dumps({"version": 1, "keys": [GOOD | {"user": 3}]}), "wrong type"),
        (json.dumps({"version": 1, "keys": [GOOD | {"expires": "soon"}]}), "wrong type"),
        (json.dumps({"version": 1, "keys": [GOOD | {"more": 1}]}), "not a file of keys"),
        ("[" * 100_000, "not a file of keys"),
    ],
)
def test_a_file_that_is_not_ours_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(FabricError, match=problem):
        keys.read(path)


def test_a_file_that_others_may_read_is_refused(path: Path) -> None:
    keys.add(path, keys.make("alice", "full", NOW_NS)[0])
    path.chmod(0o640)
    with pytest.raises(FabricError, match="mode 0640: others may read the keys; chmod 600 it"):
        keys.read(path)
    with pytest.raises(FabricError, match="mode 0640"):
        keys.add(path, keys.make("bob", "full", NOW_NS)[0])


def test_commands_at_once_lose_no_key(path: Path) -> None:
    made = [keys.make(f"user{number}", "full", NOW_NS)[0] for number in range(20)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: keys.add(path, key), made))
    assert set(keys.read(path).by_id) == {key.id for key in made}
    assert [found.name for found in path.parent.iterdir() if found.name.endswith(".new")] == []


def test_a_curve_pair_is_private_and_replaces_nothing(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    public = keys.make_curve(path)
    assert len(public) == len(path.read_text().strip()) == 40
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(FabricError, match="there is a file already"):
        keys.make_curve(path)
