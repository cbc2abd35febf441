"""Starts one of the peers on a port of its own."""

import argparse
import importlib.util
import json
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from nodes.exchanges.market import tickers

HERE = Path(__file__).resolve().parent


@contextmanager
def started(name: str, options: argparse.Namespace) -> Iterator[tuple[int, dict[str, int], str]]:
    """Its port, its processes by name (those that serve begin with ``server``), and the dialect that clients speak."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        names = folder / "names.json"
        names.write_text(json.dumps(tickers(options.symbols)))
        port = free_port()
        if name == "nats":
            bus = free_port()
            command = [program(name, options), "-c", str(HERE / "nats.conf"), "-a", "127.0.0.1", "-p", str(bus)]
            text = (
                (HERE / "nats.conf").read_text().replace("websocket {", f'websocket {{\n  listen: "127.0.0.1:{port}"')
            )
            (folder / "nats.conf").write_text(text)
            command[2] = str(folder / "nats.conf")
            server = run(stack, command, None)
            wait_for(bus)
            market = run(stack, [sys.executable, str(HERE / "nats_feed.py"), str(bus), str(names)], "ready")
            yield port, {"server nats": server.pid, "feed": market.pid}, "nats"
            return
        command = [program(name, options), str(HERE / f"{name}_server.py"), str(port), str(names)]
        server = run(stack, command, "ready")
        yield port, {f"server {name}": server.pid}, "stream"


def program(name: str, options: argparse.Namespace) -> str:
    """What runs a peer; ends with one line that says what is missing."""
    if name == "nats":
        found = options.nats_server or shutil.which("nats-server")
        if found is None:
            raise SystemExit("nats: no nats-server on PATH (Debian: apt install nats-server), nor --nats-server FILE")
        return str(found)
    if name == "socketify":
        if options.socketify_python:
            return str(options.socketify_python)
        if importlib.util.find_spec("socketify") is None:
            raise SystemExit("socketify: not installed; give --socketify-python, a Python that has it")
    return sys.executable


def run(stack: ExitStack, command: list[str], word: str | None) -> "subprocess.Popen[str]":
    """Start a process and wait for its word; it ends with the stack."""
    quiet = subprocess.DEVNULL if word is None else None
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=quiet, text=True)
    stack.callback(process.wait)
    stack.callback(process.kill)
    assert process.stdout is not None
    stack.callback(process.stdout.close)
    if word is not None:
        for line in process.stdout:
            if word in line:
                return process
        raise SystemExit(f"{Path(command[1]).name}: ended before it was ready")
    return process


def wait_for(port: int) -> None:
    """Until somebody listens."""
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
            return
        except ConnectionRefusedError:
            pass


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
