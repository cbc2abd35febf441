"""Logs of feeds as one recording: merged by the time of publication, the same at every reading."""

import random
from pathlib import Path

import numpy as np
import pytest

from fabric import codec
from fabric.clock import SystemClock
from fabric.journal import Journal
from fabric.journal_kernel import append_all
from fabric.records import KIND_NBBO, KIND_QUOTE, NBBO, QUOTE, Rows, columns, empty
from fabric.symbols import SymbolTable
from fabric.topology import FeedSettings, JournalSettings
from nodes.feeds import logged, replay
from nodes.feeds.replay import Recording

EVER = 2**63 - 1
FIRST_NS = 1_767_366_000_000_000_000


def write(folder: Path, name: str, seed: int, count: int, kind: int = KIND_QUOTE) -> list[tuple[int, int, str]]:
    """A log of ``count`` rows; the stamp, number and symbol of each."""
    rng, symbols = random.Random(seed), SymbolTable(64)
    rows = empty(count, QUOTE if kind == KIND_QUOTE else NBBO, kind)
    rows["symbol"] = [symbols.intern(f"S{rng.randrange(9)}") for _ in range(count)]
    rows["venue"] = ord("V") if kind == KIND_QUOTE else 0
    rows["seq"], rows["epoch"], rows["position"] = np.arange(1, count + 1), 1, np.arange(1, count + 1)
    rows["feed_ns"] = FIRST_NS + np.cumsum([rng.choice([0, 0, 1, 50]) for _ in range(count)])
    log = Journal(folder / name, JournalSettings(str(folder), keep_ns=2**66, bytes_max=64 << 20), SystemClock(), 1)
    for row in columns(rows):
        data, ends = codec.lay_out(codec.encode(row.view(rows.dtype).reshape(1), symbols))
        append_all(log.state, data, ends, 0, 1, int(row[9]), 1)
    log.close()
    return [(int(row["feed_ns"]), int(row["seq"]), symbols.name(int(row["symbol"]))) for row in rows]


def shown(rows: list[Rows], symbols: SymbolTable) -> list[tuple[int, int, str]]:
    return [(int(r["feed_ns"]), int(r["seq"]), symbols.name(int(r["symbol"]))) for part in rows for r in part]


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[tuple[int, int, str]]]:
    """A folder of two feeds' logs, and of a processor's; what the feeds published, merged."""
    monkeypatch.setattr("fabric.logged.ROWS_MAX", 100)
    made = [write(tmp_path, "a", 1, 700), write(tmp_path, "b", 2, 1_100)]
    write(tmp_path, "nbbo", 3, 50, KIND_NBBO)
    return tmp_path, sorted([*made[0], *made[1]], key=lambda row: row[0])


def test_logs_are_merged_by_the_time_of_publication(logs: tuple[Path, list[tuple[int, int, str]]]) -> None:
    folder, wanted = logs
    paths = logged.folders(folder)
    assert [path.name for path in paths] == ["a", "b"]
    assert logged.folders(folder / "a") == [folder / "a"]
    symbols = SymbolTable(64)
    assert shown(list(logged.read(paths, symbols, 0, EVER)), symbols) == wanted


def test_a_range_is_from_an_instant_up_to_another(logs: tuple[Path, list[tuple[int, int, str]]]) -> None:
    folder, wanted = logs
    first, last = wanted[400][0], wanted[1_300][0]
    symbols = SymbolTable(64)
    got = shown(list(logged.read(logged.folders(folder), symbols, first, last)), symbols)
    assert got == [row for row in wanted if first <= row[0] < last]
    assert len(got) > 800


def test_it_is_a_recording_as_any_other(logs: tuple[Path, list[tuple[int, int, str]]]) -> None:
    folder, wanted = logs
    assert replay.inspect(str(folder)).wire == replay.LOGGED
    symbols = SymbolTable(64)
    recording = Recording(FeedSettings("", "V", source=str(folder)), symbols)
    rows = [part.copy() for section in recording.sections() for part in section.rows(0, section.times.size)]
    assert shown(rows, symbols) == wanted
    counters = recording.counters()
    assert (counters["quotes"], counters["trades"], counters["gaps"]) == (1_800, 0, 0)
    assert (counters["first_ns"], counters["last_ns"]) == (wanted[0][0], wanted[-1][0])
    recording.close()
