"""uWebSockets through socketify: its own topics, `publish` in native code, no compression, room for slow clients."""

import json
import sys

import feed
from socketify import App, OpCode

market = feed.Feed(feed.names(sys.argv[2]))
app = App()


def message(ws, text, _):  # type: ignore[no-untyped-def]
    for name in json.loads(text)["quotes"]:
        ws.subscribe(name)


def tick(_):  # type: ignore[no-untyped-def]
    for symbol, text in market.due():
        app.publish(market.symbols[symbol], text, OpCode.TEXT)


app.ws("/stream", {"compression": 0, "max_payload_length": 65536, "idle_timeout": 0, "max_backpressure": 1 << 26,
                   "message": message})  # fmt: skip
app.listen(int(sys.argv[1]), lambda _: print("ready", flush=True))
timer = app.loop.uv_loop.create_timer(2, 2, tick, None)
app.run()
