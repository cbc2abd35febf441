"""The recorded day as a chart: the pages of `/candles` against candles made from all trades at once."""

import csv
import gzip
import json
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import naive
from fabric.history import open_history
from fabric.records import KIND_TRADE, NULL, PRICE_UNIT, TRADE, Rows, empty, pack, unpack
from redis_servers import wait_for
from support import free_port, product_environment
from topologies import ROOT, free_range

pytestmark = pytest.mark.timeout(400)


def recorded(path: Path) -> Rows:
    """The trades of the file as rows of tape A, in its order."""
    with gzip.open(path, "rt") as lines:
        found = list(csv.DictReader(lines))
    rows = empty(len(found), TRADE, KIND_TRADE)
    rows["symbol"] = 1
    rows["exchange_seq"] = [int(line["seq"]) for line in found]
    rows["venue"] = [ord(line["ex"]) for line in found]
    rows["event_ns"] = [int(line["ts_us"]) * 1_000 for line in found]
    rows["price"] = [round(float(line["price"]) * 10_000) * (PRICE_UNIT // 10_000) for line in found]
    rows["size"] = [int(line["size"]) for line in found]
    rows["condition"] = [pack(line["cond"]) for line in found]
    rows["tape"] = pack("A")
    return rows


def naive_minutes(rows: Rows) -> dict[int, dict[str, int]]:
    """Each minute from all its trades at once, by its start."""
    made = []
    for trade in naive.as_dicts(rows):
        rights = naive.sale_rights(unpack(trade["condition"]), "A", trade["event_ns"], chr(trade["venue"]))
        if rights - {"o", "c"}:
            made.append(trade | {"rights": rights})
    closing = naive.closing_trades(made)
    minutes = defaultdict(list)
    for trade in made:
        minutes[naive.span_of(0, trade["event_ns"])[0]].append(trade)
    return {start: naive.bar_of(trades, closing) for start, trades in minutes.items()}


def test_the_chart_of_a_recorded_day_is_that_of_all_its_trades(shared_data: Path, tmp_path: Path) -> None:
    """Memory holds the last 100 minutes only: the pages before come from the history that the replay has written, which
    is asked to keep the trades too.
    """
    source = shared_data / "taq_nbbo" / "trades_2018-01-02.csv.gz"
    trades = recorded(source)
    expected = naive_minutes(trades)
    text = (ROOT / "topology.yaml").read_text()
    topology = tmp_path / "topology.yaml"
    text = text.replace("limits:\n", "limits:\n  candles_kept: 100\n")
    topology.write_text(text.replace("\nhistory:\n", "\nhistory:\n  ticks: [XX]\n"))
    port = free_port()
    command = [sys.executable, "-m", "fabric", "replay", str(source), str(topology), "--hold", "--json"]
    command += ["--port-base", str(free_range(40)), "--http-port", str(port)]
    with tempfile.TemporaryDirectory() as folder, (tmp_path / "log").open("w") as log, subprocess.Popen(
        command, cwd=ROOT, env=product_environment() | {"TMPDIR": folder}, stdout=subprocess.PIPE, stderr=log, text=True
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            while (line := process.stdout.readline()) not in ("}\n", ""):
                pass
            assert line, (tmp_path / "log").read_text()
            wait_for(lambda: len(pages(port)[0]) >= len(expected), 30)
            found, sources = pages(port)
            (file,) = Path(folder).glob("fabric-replay-*/history.db")
            wait_for(lambda: len(ticks(file)) >= trades.size, 30)
            kept = ticks(file)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
    assert list(found) == sorted(expected), "each minute once, in order"
    assert sources[0] == "memory, history", "after the close there are minutes without a trade"
    assert sources[-1] == "history"
    shown = {start: {key: one[key] for key in COLUMNS} for start, one in found.items()}
    assert shown == {start: {key: number(bar[COLUMNS[key]], key) for key in COLUMNS} for start, bar in expected.items()}

    assert kept == sorted(zip(*(trades[name].tolist() for name in ("event_ns", "price", "size")), strict=True))


def ticks(file: Path) -> list[tuple[int, int, int]]:
    """Time, price and size of each trade that the history has, in order."""
    with closing(open_history(str(file), read_only=True)) as store:
        found = store.ticks("XXX", 0, 2**63 - 1, 10_000_000)
    return sorted((tick[0], tick[4], tick[5]) for tick in found)


def number(value: int, key: str) -> float | None:
    """A value of a bar as the answer has it."""
    return None if value == NULL else value if key in ("volume", "trades") else value / PRICE_UNIT


COLUMNS = {
    "open": "open_px", "high": "high_px", "low": "low_px", "close": "close_px", "volume": "volume", "trades": "trades",
    "vwap": "vwap_px",
}  # fmt: skip


def pages(port: int) -> tuple[dict[int, dict[str, Any]], list[str]]:
    """All minutes, scrolled back to the first, by their start; and where each page came from."""
    found: dict[int, dict[str, Any]] = {}
    sources = []
    end = ""
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/candles/XXX?limit=60{end}", timeout=10) as answer:
            page = json.load(answer)
            sources.append(answer.headers["X-Data-Source"])
        found = {round(one["start"]) * 10**9: one for one in page["candles"]} | found
        if page["older"] is None:
            return found, sources
        end = f"&end={page['older']}"
