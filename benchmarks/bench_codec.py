"""Records encoded and decoded a second, beside msgpack's own library and msgspec on the same messages.

Ours writes and reads rows of arrays; the libraries make and take Python objects (msgpack: dicts; msgspec: typed
structs, its quickest form). All three read the same bytes, and what they read is compared first.

Run: python benchmarks/bench_codec.py
"""

import msgpack
import msgspec
import numpy as np
from machine import best_seconds, describe

from fabric import codec
from fabric import codec_kernel as ck
from fabric.records import KIND_QUOTE, PRICE_UNIT, QUOTE, WIDTH, columns, empty, pack
from fabric.symbols import SymbolTable

ROWS, ROUNDS = 20_000, 15
PYTHON_NAMES = {"as": "as_"}


def quotes(symbols: SymbolTable) -> np.ndarray:
    """Random quotes of 1,000 symbols."""
    rng = np.random.default_rng(1)
    rows = empty(ROWS, QUOTE, KIND_QUOTE)
    ids = np.array([symbols.intern(f"S{i}") for i in range(1_000)])
    rows["symbol"], rows["venue"] = ids[rng.integers(0, 1_000, ROWS)], ord("V")
    rows["bid_px"] = rng.integers(1, 50_000, ROWS) * PRICE_UNIT // 100
    rows["ask_px"] = rows["bid_px"] + PRICE_UNIT // 100
    rows["bid_size"], rows["ask_size"] = rng.integers(1, 50, (2, ROWS)) * 100
    rows["condition"], rows["tape"] = pack("R"), pack("C")
    for name in ("seq", "epoch", "position", "exchange_seq", "recv_ns", "feed_ns", "event_ns"):
        rows[name] = rng.integers(1, 2**62, ROWS)
    return rows


def main() -> None:
    symbols = SymbolTable(2_000)
    rows = quotes(symbols)
    frames = codec.encode(rows, symbols)
    payloads = [payload for _, payload in frames]
    maps = [msgpack.unpackb(payload) for payload in payloads]
    fields = [(PYTHON_NAMES.get(key, key), object, msgspec.field(name=key)) for key in maps[0]]
    struct = msgspec.defstruct(
        "Quote", [(name, _type(maps[0][item.name]), item) for (name, _, item) in fields], gc=False
    )
    decoder, encoder = msgspec.msgpack.Decoder(struct), msgspec.msgpack.Encoder()
    structs = [decoder.decode(payload) for payload in payloads]
    assert [msgpack.unpackb(encoder.encode(s)) for s in structs[:100]] == maps[:100]

    data, ends = codec.lay_out(frames)
    out, out_ends = np.empty(data.size + ck.TOPIC_MAX + ck.PAYLOAD_MAX, np.uint8), np.empty((ROWS, 2), np.int64)
    back, reasons, scratch = np.empty((ROWS + 1, WIDTH), np.int64), np.empty(ROWS, np.int64), np.empty(8, np.int64)
    packer = msgpack.Packer()

    def ours_encode(_: int) -> None:
        assert ck.encode_rows(codec.SCHEMA, symbols.arrays.words, columns(rows), out, out_ends) == ROWS

    def ours_decode(_: int) -> None:
        assert ck.decode_frames(codec.SCHEMA, symbols.arrays, data, ends, back, reasons, scratch) == ROWS

    def each(function, values):  # type: ignore[no-untyped-def]
        def work(_: int) -> None:
            for value in values:
                function(value)

        return work

    ours_decode(0)
    assert (back[:ROWS] == columns(rows)).all()
    print(describe())
    print(f"{ROWS} quotes of {len(payloads[0])} bytes, best of {ROUNDS} rounds, M/s on one core")
    works = [
        ours_encode, each(packer.pack, maps), each(encoder.encode, structs),
        ours_decode, each(msgpack.unpackb, payloads), each(decoder.decode, payloads),
    ]  # fmt: skip
    rates = [ROWS / seconds / 1e6 for seconds in best_seconds(1, ROUNDS, *works)]
    for what, (ours, library, typed) in zip(("encode", "decode"), (rates[:3], rates[3:]), strict=True):
        print(
            f"{what}: ours {ours:.2f}   msgpack {library:.2f} ({ours / library:.1f} x)   "
            f"msgspec {typed:.2f} ({ours / typed:.1f} x)"
        )


def _type(value: object) -> object:
    return {int: int | None, float: float | None, str: str | None, list: list[str] | None}.get(type(value), int | None)


if __name__ == "__main__":
    main()
