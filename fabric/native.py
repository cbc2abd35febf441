"""libzmq and libc as functions that compiled code can call; nothing else loads or declares them.

pyzmq's wheel carries libzmq as a shared library, and a socket's C handle is ``socket.underlying``. The
library is loaded into LLVM's symbol space here, once, before any kernel that calls it can run: a cached
kernel that runs without it would crash. The functions are `numba.types.ExternalFunction`, so kernels
that use them stay cacheable (a ctypes pointer would not).

Sources: the ZeroMQ 4.3 API manual (api.zeromq.org) and the Linux manual pages send(2), recvmmsg(2), msync(2),
madvise(2).
"""

import ctypes.util
from pathlib import Path
from typing import Any

from fabric.compiled import lean  # first: it sets numba's cache folder

import llvmlite.binding as llvm  # isort: skip
import zmq
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


def _libzmq_path() -> str:
    """The shared library that pyzmq itself uses: bundled beside the package, else the system's."""
    bundled = sorted((Path(zmq.__file__).parent.parent / "pyzmq.libs").glob("libzmq*.so*"))
    path = str(bundled[0]) if bundled else ctypes.util.find_library("zmq")
    if path is None:
        raise ImportError("libzmq: no shared library beside pyzmq nor on the system; reinstall pyzmq from its wheel")
    return path


llvm.load_library_permanently(_libzmq_path())

_int = types.int32
_ptr = types.uintp
_size = types.intp


def _function(name: str, result: Any, *arguments: Any) -> Any:
    return types.ExternalFunction(name, result(*arguments))


zmq_send = _function("zmq_send", _int, _ptr, _ptr, _size, _int)
zmq_msg_init = _function("zmq_msg_init", _int, _ptr)
zmq_msg_recv = _function("zmq_msg_recv", _int, _ptr, _ptr, _int)
zmq_msg_more = _function("zmq_msg_more", _int, _ptr)
zmq_msg_data = _function("zmq_msg_data", _ptr, _ptr)
zmq_msg_size = _function("zmq_msg_size", _size, _ptr)
zmq_msg_close = _function("zmq_msg_close", _int, _ptr)
zmq_poll = _function("zmq_poll", _int, _ptr, _int, types.int64)
zmq_errno = _function("zmq_errno", _int)

send = _function("send", types.int64, _int, _ptr, _size, _int)
recv = _function("recv", types.int64, _int, _ptr, _size, _int)
recvmmsg = _function("recvmmsg", _int, _int, _ptr, types.uint32, _int, _ptr)
sendmmsg = _function("sendmmsg", _int, _int, _ptr, types.uint32, _int)
memcpy = _function("memcpy", _ptr, _ptr, _ptr, _size)
memcmp = _function("memcmp", _int, _ptr, _ptr, _size)
msync = _function("msync", _int, _ptr, _size, _int)
madvise = _function("madvise", _int, _ptr, _size, _int)
_errno_location = _function("__errno_location", _ptr)

ZMQ_MSG_BYTES = 64
"""sizeof(zmq_msg_t), fixed by zmq.h."""
ZMQ_DONTWAIT = 1
ZMQ_SNDMORE = 2
ZMQ_POLLIN = 1
ZMQ_POLLOUT = 4
EAGAIN = 11
EINTR = 4
EINVAL = 22
ETERM = 156384765
"""The context was terminated (ZMQ_HAUSNUMERO + 53)."""
MSG_DONTWAIT = 0x40
MSG_NOSIGNAL = 0x4000
MS_SYNC = 4
MADV_POPULATE_WRITE = 23
HAS_CRC32C = bool(llvm.get_host_cpu_features().get("sse4.2"))
"""Whether this processor computes CRC-32C by itself; then, and only then, kernels may call `crc32c_word`."""
MMSG_HEADER_BYTES = 64
"""sizeof(struct mmsghdr) on 64-bit Linux: msghdr (56), msg_len (4), padding (4)."""


@intrinsic
def load_int32(typingctx: Any, address: Any) -> Any:
    """``*(int32_t *)address``"""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.IntType(32).as_pointer())
        return builder.load(pointer)

    return types.int32(types.uintp), generate


@intrinsic
def load_byte(typingctx: Any, address: Any) -> Any:
    """``*(uint8_t *)address``, as an int64"""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())
        return builder.zext(builder.load(pointer), ir.IntType(64))

    return types.int64(types.uintp), generate


@lean
def errno() -> int:
    """The calling thread's errno."""
    return load_int32(_errno_location())


@intrinsic
def load_int64(typingctx: Any, address: Any) -> Any:
    """``*(int64_t *)address``; the address need not be aligned"""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.load(pointer, align=1)

    return types.int64(types.uintp), generate


@intrinsic
def store_int64(typingctx: Any, address: Any, value: Any) -> Any:
    """``*(int64_t *)address = value``; the address need not be aligned"""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        builder.store(arguments[1], pointer, align=1)
        return context.get_dummy_value()

    return types.none(types.uintp, types.int64), generate


@intrinsic
def swap_bytes(typingctx: Any, value: Any) -> Any:
    """The eight bytes of an int64 in reverse order: host order <-> network order on a little-endian machine"""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bswap(arguments[0])

    return types.int64(types.int64), generate


@intrinsic
def float_bits(typingctx: Any, value: Any) -> Any:
    """The 64 bits of a float as an int64"""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.int64(types.float64), generate


@intrinsic
def bits_float(typingctx: Any, bits: Any) -> Any:
    """The float whose 64 bits are those of an int64"""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.int64), generate


@intrinsic
def bits_single(typingctx: Any, bits: Any) -> Any:
    """The 32-bit float whose bits are the low half of an int64, as a 64-bit float"""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = builder.trunc(arguments[0], ir.IntType(32))
        return builder.fpext(builder.bitcast(word, ir.FloatType()), ir.DoubleType())

    return types.float64(types.int64), generate


def _prefetching(for_writing: bool) -> Any:
    """What generates llvm.prefetch of a data line that is to stay in the caches."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        function_type = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
        keep, data = number(3), number(1)
        builder.call(function, [builder.inttoptr(arguments[0], pointer), number(int(for_writing)), keep, data])
        return context.get_dummy_value()

    return generate


@intrinsic
def prefetch(typingctx: Any, address: Any) -> Any:
    """Ask for the cache line at ``address``, which will be written soon; any address will do"""
    return types.none(types.uintp), _prefetching(True)


@intrinsic
def prefetch_read(typingctx: Any, address: Any) -> Any:
    """As `prefetch`, for a line that will only be read: one that others read too stays in their caches"""
    return types.none(types.uintp), _prefetching(False)


@intrinsic
def crc32c_word(typingctx: Any, crc: Any, word: Any) -> Any:
    """The CRC-32C register after eight more bytes, by the instruction of SSE 4.2; see `HAS_CRC32C`"""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number = ir.IntType(64)
        function_type = ir.FunctionType(number, [number, number])
        function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.x86.sse42.crc32.64.64")
        return builder.call(function, arguments)

    return types.int64(types.int64, types.int64), generate
