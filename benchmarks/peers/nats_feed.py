"""Publishes to nats-server over its own TCP protocol: a tick's messages in one write."""

import socket
import sys
import time

import feed

market = feed.Feed(feed.names(sys.argv[2]))
subjects = [f"q.{name.replace('.', '/')}".encode() for name in market.symbols]
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as server:
    server.recv(4096)
    server.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\n')
    server.setblocking(False)
    print("ready", flush=True)
    while True:
        pieces = []
        for symbol, text in market.due():
            pieces += (b"PUB ", subjects[symbol], b" %d\r\n" % len(text), text, b"\r\n")
        try:
            if b"PING" in server.recv(4096):
                pieces.append(b"PONG\r\n")
        except BlockingIOError:
            pass
        server.setblocking(True)
        server.sendall(b"".join(pieces))
        server.setblocking(False)
        time.sleep(feed.TICK_S)
