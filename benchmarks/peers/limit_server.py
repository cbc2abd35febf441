"""The kernel's own limit: `send` of a ready frame to each client every 100 ms, from a compiled loop, and nothing else.

What a frame says was made when its client subscribed, so the generator finds every later one a repetition: of this
server only frames and processor time count.
"""

import json
import selectors
import socket
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from tornado.websocket import WebSocketProtocol13

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import feed
import limit_kernel

PERIOD_NS = 100_000_000
TAKEN_IN_NS = 500_000_000
"""Newcomers are taken in together: to copy all frames for each would take longer than to send them."""


class Clients:
    """Accepts, shakes hands, and makes each its frame."""

    def __init__(self, port: int, symbols: list[str]) -> None:
        self._messages = {symbols[i]: message for i, message in first_messages(symbols)}
        self._listening = socket.create_server(("127.0.0.1", port), backlog=4096)
        self._listening.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listening, selectors.EVENT_READ, None)
        self._half: dict[socket.socket, bytes] = {}
        self._kept: list[tuple[socket.socket, bytes]] = []
        self.fds = np.zeros(0, np.int64)
        self.starts = np.zeros(0, np.int64)
        self.frames = np.zeros(0, np.uint8)

    def look(self) -> None:
        """Do what connections want; nothing once all are there."""
        for key, _ in self._selector.select(0):
            if key.data is None:
                client, _ = self._listening.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client.setblocking(False)
                self._half[client] = b""
                self._selector.register(client, selectors.EVENT_READ, client)
            else:
                self._read(key.data)

    def take_in(self) -> None:
        """Send to those who have come since the last call, too."""
        if self.fds.size < len(self._kept):
            frames = [frame for _, frame in self._kept]
            self.fds = np.array([client.fileno() for client, _ in self._kept])
            self.starts = np.cumsum([0, *map(len, frames)])
            self.frames = np.frombuffer(b"".join(frames), np.uint8)

    def _read(self, client: socket.socket) -> None:
        piece = client.recv(65536)
        data = self._half[client] + piece
        if not piece:
            self._selector.unregister(client)
        elif data.startswith(b"GET"):
            head, end, data = data.partition(b"\r\n\r\n")
            if end:
                key = next(line for line in head.split(b"\r\n") if line.startswith(b"Sec-WebSocket-Key")).split()[1]
                accept = WebSocketProtocol13.compute_accept_value(key).encode()
                client.sendall(
                    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
                )
        elif (at := data.find(b"{")) >= 0 and data.endswith(b"}"):
            self._selector.unregister(client)
            wanted = json.loads(data[at:])["quotes"]
            payload = b"[" + b",".join(self._messages[name] for name in wanted) + b"]"
            frame = bytes((0x81, 126)) + len(payload).to_bytes(2, "big") + payload
            self._kept.append((client, frame))
            return
        self._half[client] = data


def first_messages(symbols: list[str]) -> list[tuple[int, bytes]]:
    market = feed.Feed(symbols)
    time.sleep(0.2)
    return list(market.due())


def main(port: int, names: str) -> None:
    clients = Clients(port, feed.names(names))
    sent: Any = limit_kernel.send_share(clients.fds, clients.starts, clients.frames, 0, 0)
    print("ready", flush=True)
    sent = 0
    began_ns = taken_ns = time.monotonic_ns()
    while True:
        clients.look()
        if time.monotonic_ns() - taken_ns > TAKEN_IN_NS:
            taken_ns = time.monotonic_ns()
            clients.take_in()
        count = clients.fds.size
        due = (time.monotonic_ns() - began_ns) * count // PERIOD_NS
        if due - sent > count:  # more than a whole round late: it cannot keep up, and says so by fewer frames
            sent = due - count
        if due > sent:
            limit_kernel.send_share(clients.fds, clients.starts, clients.frames, sent, due)
        sent = due
        time.sleep(0.002)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
