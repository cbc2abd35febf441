"""What all sockets of the bus have in common: options and bounds, how they bind, and who is let in (CURVE, ZAP)."""

from collections.abc import Mapping
from typing import Any

import msgpack
import zmq
import zmq.utils.monitor
from zmq.utils import z85

from fabric import keys
from fabric.clock import SECOND_NS
from fabric.errors import UnavailableError
from fabric.topology import Curve, Limits

UNACKNOWLEDGED_MS = 1_500
"""The kernel drops a connection whose peer has not acknowledged data for this long."""
CONNECT_MS = 500
"""An attempt to connect is given up after this: the kernel's own retries back off to many seconds."""
RECONNECT_MS = 50
RECONNECT_MAX_MS = 1_000
HANDSHAKE_MS = 2_000
CURVE_BYTES = 512
"""What the longest command of a CURVE handshake, and its frame around a message, take beside the message."""
BEAT_EVERY_NS = SECOND_NS
"""Between two heartbeats of a publisher."""
SNAPSHOT_PREFIXES_MAX = 4_096
"""In one request for last values."""
MALFORMED = (ValueError, KeyError, TypeError, AttributeError, OverflowError, msgpack.UnpackException)
"""What taking apart a map may raise that is not what it should be."""
_ZAP = "inproc://zeromq.zap.01"
_REFUSALS = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL


def tune(socket: zmq.Socket[bytes], limits: Limits) -> None:
    """Set what every socket of the bus has in common; must come before bind or connect."""
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, limits.queue_max)
    socket.setsockopt(zmq.RCVHWM, limits.queue_max)
    socket.setsockopt(zmq.MAXMSGSIZE, limits.message_bytes_max)
    # A domain refuses ZMTP 1 and 2. Such a peer is sent every message, as it was to filter by itself; and what is no
    # ZMTP at all, an HTTP request for one, is taken for ZMTP 1. Without a ZAP handler the domain asks nobody.
    socket.setsockopt(zmq.ZAP_DOMAIN, b"fabric")
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 2)
    socket.setsockopt(zmq.TCP_MAXRT, UNACKNOWLEDGED_MS)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_MS)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)


def local_endpoint(endpoint: str) -> str:
    """The Unix-domain twin of an endpoint on loopback, for readers under the same launcher; empty where there is none.

    A message over it costs half the kernel time of TCP. Its name is in the abstract namespace (unix(7)): no file to
    clean up, unique because the port is, and open to the users of this machine as the port on loopback is.
    """
    prefix = "tcp://127.0.0.1:"
    port = endpoint.removeprefix(prefix)
    return f"ipc://@fabric-{port}" if endpoint.startswith(prefix) and port.isdecimal() else ""


def serve_curve(socket: zmq.Socket[bytes], curve: Curve, message_bytes_max: int) -> None:
    """Let in only those whose key `Gate` knows, and messages of that length; must come before bind."""
    _, secret = keys.read_curve(curve)
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # nobody comes in while nobody is asked
    socket.setsockopt(zmq.MAXMSGSIZE, message_bytes_max + CURVE_BYTES)


class Gate:
    """Who may come in at the sockets of one publisher: asked by libzmq for each connection (ZAP, RFC 27), and counting
    those that were refused: another key than one of ours, none at all, or a wrong idea of which is ours.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], curve: Curve) -> None:
        """One for a context: the name under which libzmq asks is that of the context."""
        self.refused = 0
        self._known = {z85.decode(key) for key in curve.clients}
        self._monitors: list[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]] = []
        self._asked = context.socket(zmq.REP)
        self._asked.setsockopt(zmq.LINGER, 0)
        self._asked.bind(_ZAP)

    def watch(self, socket: zmq.Socket[bytes]) -> None:
        """Count the connections that this socket refuses."""
        self._monitors.append((socket, socket.get_monitor_socket(_REFUSALS)))

    def register(self, poller: zmq.Poller) -> None:
        poller.register(self._asked, zmq.POLLIN)
        for _, monitor in self._monitors:
            poller.register(monitor, zmq.POLLIN)

    def turn(self, ready: Mapping[Any, int]) -> None:
        """Answer and count what is ``ready``."""
        if self._asked in ready:
            version, number, _, _, _, mechanism, *credentials = self._asked.recv_multipart()
            # without keys are only our own readers of publishers that have none, for which libzmq asks too
            known = mechanism == b"NULL" or (mechanism == b"CURVE" and credentials[0] in self._known)
            code, text = (b"200", b"OK") if known else (b"400", b"unknown key")
            self._asked.send_multipart([version, number, code, text, b"", b""])
        for _, monitor in self._monitors:
            if monitor in ready:
                monitor.recv_multipart()
                self.refused += 1

    def close(self) -> None:
        for socket, monitor in self._monitors:
            if not socket.closed:
                socket.disable_monitor()
            monitor.close(linger=0)
        self._asked.unbind(_ZAP)  # at once: whoever comes after this publisher may bind it
        self._asked.close()


def bind(socket: zmq.Socket[bytes], address: str, name: str) -> None:
    """Bind a socket of the publisher ``name``. Raises UnavailableError where the address cannot be had."""
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        raise UnavailableError(f"{name}: cannot bind {address}: {error}") from error
