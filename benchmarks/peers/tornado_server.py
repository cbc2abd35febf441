"""Plain Tornado: `write_message` for each update and client, as its manual's chat example has it, no compression."""

import asyncio
import json
import sys
from collections import defaultdict

import feed
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application
from tornado.websocket import WebSocketHandler

CLIENTS: defaultdict[str, set["Stream"]] = defaultdict(set)


class Stream(WebSocketHandler):
    """One client."""

    def check_origin(self, origin: str) -> bool:
        return True

    def open(self) -> None:
        self.set_nodelay(True)

    def on_message(self, message: str | bytes) -> None:
        for name in json.loads(message)["quotes"]:
            CLIENTS[name].add(self)

    def on_close(self) -> None:
        for clients in CLIENTS.values():
            clients.discard(self)


async def main(port: int, names: str) -> None:
    market = feed.Feed(feed.names(names))
    server = HTTPServer(Application([(r"/stream", Stream)]))
    server.add_sockets(bind_sockets(port, "127.0.0.1", backlog=4096))
    print("ready", flush=True)
    while True:
        for symbol, message in market.due():
            text = message.decode()
            for client in CLIENTS[market.symbols[symbol]]:
                client.write_message(text)
        await asyncio.sleep(feed.TICK_S)


asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
