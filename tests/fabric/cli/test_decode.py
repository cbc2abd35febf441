"""``fabric decode`` from the command line, and the instants that it prints."""

import json
import struct
from pathlib import Path

import click
import pytest

from fabric.cli.instants import INSTANT, rfc3339
from fabric.cli.main import run


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    payload = b"not of a known wire"
    udp = struct.pack(">HHHH", 1, 2, 8 + len(payload), 0) + payload
    ip = struct.pack(">BBHHHBBH8x", 0x45, 0, 20 + len(udp), 0, 0, 9, 17, 0) + udp
    record = struct.pack("<IIII", 1_500_000_000, 7, len(ip), len(ip)) + ip
    path = tmp_path / "x.pcap"
    path.write_bytes(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65535, 101) + record * 3)
    return path


def test_text_and_limit(capture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["decode", str(capture), "--limit", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("2017-07-14T02:40:00.000000007Z")
    assert "bytes=19" in lines[0]
    assert lines[2].startswith("packets 2")


def test_json_lines_end_with_the_counts(capture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["decode", str(capture), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("type") for line in lines] == ["udp", "udp", "udp", None]
    assert lines[-1]["counts"]["packets"] == 3


def test_a_broken_file_is_one_line_and_exit_code_1(capture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capture.write_bytes(capture.read_bytes()[:-1])
    assert run(["decode", str(capture)]) == 1
    captured = capsys.readouterr()
    assert captured.out.count("udp") == 2
    assert captured.err.count("\n") == 1
    assert f"{capture}: byte " in captured.err


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [
        ("1970-01-01T00:00:01Z", 10**9),
        ("1970-01-01T00:00:01.5Z", 1_500_000_000),
        ("1970-01-01 01:00:00.000000001+01:00", 1),
        ("2017-07-14T02:40:00.000000007Z", 1_500_000_000_000_000_007),
    ],
)
def test_instants(text: str, time_ns: int) -> None:
    assert INSTANT.convert(text, None, None) == time_ns
    assert INSTANT.convert(rfc3339(time_ns), None, None) == time_ns


@pytest.mark.parametrize(
    "text", ["", "now", "2017-07-14", "2017-07-14T02:40:00", "2017-13-14T02:40:00Z", "2017-07-14T02:40:00.0000000001Z"]
)
def test_what_is_no_instant(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no instant"):
        INSTANT.convert(text, None, None)
