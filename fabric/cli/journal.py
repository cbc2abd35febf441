"""``fabric journal``: what the durable logs hold, whether it is sound and accounted for, and as Parquet files."""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import numpy as np

from fabric import audit as audits
from fabric import codec, codec_kernel, journal, topics, topology
from fabric.cli.arguments import run_folder
from fabric.cli.instants import rfc3339
from fabric.control import Control
from fabric.digest import of_log, together
from fabric.environment import Environment
from fabric.errors import CodecError, FabricError, NotRunningError, UnavailableError
from fabric.journal import Query, Segment
from fabric.records import CHANNELS, DTYPES, NULL, PRICE_UNIT, columns, unpack
from fabric.symbols import SymbolTable
from fabric.topology import JournalSettings

BATCH = 50_000
"""Messages that are decoded, and written, at once."""

_topology = click.option(
    "--topology", "path", default="topology.yaml", show_default=True, help="The topology whose logs are meant."
)
_publisher = click.argument("publishers", nargs=-1, metavar="[PUBLISHER]...")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("journal")
def command() -> None:
    """Look into the durable log of each publisher; it may be running."""


@command.command("ls")
@_publisher
@_topology
@_json
def ls(publishers: tuple[str, ...], path: str, as_json: bool) -> None:
    """List each log: records, positions, times, bytes on disk."""
    logs = [_described(name, journal.segments(folder)) for name, folder in _folders(path, publishers)]
    if as_json:
        click.echo(json.dumps(logs))
        return
    for log in logs:
        if not log["records"]:
            click.echo(f"{log['publisher']:<16} {'empty':>12}")
            continue
        holes = f", {log['holes']} holes" if log["holes"] else ""
        suspect = f", {log['suspect']} suspect" if log["suspect"] else ""
        click.echo(
            f"{log['publisher']:<16} {log['records']:>12,} records  {log['first']} to {log['last']}  "
            f"{rfc3339(log['first_ns'])} to {rfc3339(log['last_ns'])}  {log['bytes'] / 1e6:,.1f} MB in "
            f"{log['segments']} segments{holes}{suspect}"
        )
    click.echo(f"{'all':<16} {sum(log['records'] for log in logs):>12,} records  "
               f"{sum(log['bytes'] for log in logs) / 1e6:,.1f} MB")  # fmt: skip


@command.command("verify")
@_publisher
@_topology
@_json
def verify(publishers: tuple[str, ...], path: str, as_json: bool) -> int:
    """Check the CRC of every record. The exit code is 1 where a record is missing or broken."""
    sound = True
    for name, folder in _folders(path, publishers):
        found: list[Segment] = []
        for file in journal.files(folder):
            try:
                found.append(_examined(file))
            except OSError as error:
                sound = False
                click.echo(f"{file}: cannot be read: {error.strerror}", err=True)
        log = _described(name, [segment for segment in found if segment.records])
        log["missing"] = log["last"] - log["first"] + 1 - log["records"] if log["records"] else 0
        sound = sound and not log["holes"] and not log["missing"]
        if as_json:
            click.echo(json.dumps(log))
            continue
        for segment in found:
            if segment.holes:
                click.echo(f"{segment.path}: {segment.holes} places ({segment.skipped} bytes) hold no sound record")
        state = "sound" if not log["holes"] and not log["missing"] else f"{log['missing']} positions are missing"
        click.echo(f"{name:<16} {log['records']:>12,} records: {state}")
    return 0 if sound else 1


@command.command("hash")
@_publisher
@_topology
@_json
def hashed(publishers: tuple[str, ...], path: str, as_json: bool) -> None:
    """Print the hash of what the logs of processors hold, by channel: the one that `fabric replay` of this run prints.

    Of PUBLISHER, feeds too; without one of all processors together. Equal hashes stand for the same values of each
    topic in the same order; when they were said makes no difference.
    """
    loaded = topology.load(path)
    processors = tuple(spec.name for spec in loaded.nodes if spec.role == "processor")
    channels = {publisher.name: publisher.channels for publisher in loaded.publishers()}
    found = together(
        of_log(folder, channels[name])
        for name, folder in _folders(path, publishers)
        if name in (publishers or processors)
    )
    if as_json:
        click.echo(json.dumps(found))
    for channel, text in found.items() if not as_json else ():
        click.echo(f"{channel:<8} {text}")


@command.command("audit")
@click.argument("readers", nargs=-1, metavar="[PROCESSOR]...")
@_topology
@_json
@click.pass_obj
def audit(environment: Environment, readers: tuple[str, ...], path: str, as_json: bool) -> int:
    """Account for every message between each publisher and each processor: delivered, told as lost, replaced by a newer
    value after an outage, or in flight. The exit code is 1 where one is none of these, or came twice.

    Of a running topology also between each publisher and the gateways, the cache and the history, by their own count
    since the last outage, and between each gateway and its clients.
    """
    loaded = topology.load(path)
    known = [spec.name for spec in loaded.nodes if spec.role == "processor"]
    for name in readers:
        if name not in known:
            raise FabricError(f"no processor {name!r} (there are {', '.join(known) or 'none'})")
    books = audits.hops(loaded, readers)
    if not readers:
        with suppress(NotRunningError), Control(run_folder(environment, path)) as control:
            status = control.ask("status")
            books += audits.living(loaded, status) + audits.to_clients(status)
    if as_json:
        click.echo(json.dumps([hop.as_dict() for hop in books]))
    for hop in books if not as_json else ():
        click.echo(
            f"{hop.publisher + ' > ' + hop.reader:<28} {hop.published:>12,} published = {hop.delivered:,} delivered + "
            f"{hop.told:,} told + {hop.replaced:,} replaced + "
            + (f"{hop.dropped:,} dropped + " if hop.reader == "clients" else "")
            + f"{hop.in_flight:,} in flight"
            + ("" if hop.balanced else f"; {hop.unexplained:,} UNEXPLAINED, {hop.twice:,} TWICE")
        )
    if not books:
        click.echo("no processor has an order log here", err=True)
    return 0 if all(hop.balanced for hop in books) else 1


@command.command("export")
@click.argument("publisher")
@click.argument("target", type=click.Path(file_okay=False, path_type=Path))
@_topology
@click.option("--from", "first", type=click.IntRange(1), default=1, help="First position.")
@click.option("--to", "last", type=click.IntRange(1), default=journal.NO_END, help="Last position.")
@click.option("--prefix", "prefixes", multiple=True, help="Only topics that begin with this.")
def export(publisher: str, target: Path, path: str, first: int, last: int, prefixes: tuple[str, ...]) -> None:
    """Write what PUBLISHER has logged to the folder TARGET, one Parquet file for each channel."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise UnavailableError("export needs pyarrow: pip install 'market-fabric[export]'") from error
    ((_, folder),) = _folders(path, (publisher,))
    query = Query(first, last, 0, tuple(prefix.encode() for prefix in prefixes) or (b"",))
    segments = journal.segments(folder)
    target.mkdir(parents=True, exist_ok=True)
    writers: dict[str, Any] = {}
    counts: dict[str, int] = {}
    try:
        for channel, table in _tables(journal.Cursor(lambda: segments, query)):
            made = pa.table(table)
            if channel not in writers:
                writers[channel] = parquet.ParquetWriter(target / f"{channel}.parquet", made.schema)
            writers[channel].write_table(made)
            counts[channel] = counts.get(channel, 0) + made.num_rows
    finally:
        for writer in writers.values():
            writer.close()
    for channel, count in sorted(counts.items()):
        click.echo(f"{target / channel}.parquet: {count:,} rows")


def _tables(cursor: journal.Cursor) -> Iterator[tuple[str, dict[str, Any]]]:
    """Channel and columns of each batch: keys as on the bus, prices as numbers, times in ns, text as text."""
    symbols = SymbolTable(1 << 20)
    waiting: dict[str, list[tuple[bytes, bytes]]] = {}
    for position, _, _, topic, payload in journal.records(cursor):
        channel = topics.channel_of(topic.decode("ascii", "replace"))
        if channel is None:
            raise FabricError(f"position {position}: topic {topic!r} names no channel")
        waiting.setdefault(channel, []).append((topic, payload))
        if len(waiting[channel]) == BATCH:
            yield channel, _columns(channel, waiting.pop(channel), symbols)
    for channel, frames in waiting.items():
        yield channel, _columns(channel, frames, symbols)


def _columns(channel: str, frames: Sequence[tuple[bytes, bytes]], symbols: SymbolTable) -> dict[str, Any]:
    try:
        rows = codec.decode(frames, symbols)
    except CodecError as error:
        raise FabricError(f"{channel}: a logged message cannot be read: {error}") from error
    values = columns(rows)
    names = DTYPES[CHANNELS[channel]].names
    assert names is not None
    table: dict[str, Any] = {
        "S": [symbols.name(symbol) for symbol in values[:, 1].tolist()],
        "venue": [chr(venue) if venue else None for venue in values[:, 2].tolist()],
    }
    for key, column, wire in codec.FIELDS[CHANNELS[channel]]:
        raw = values[:, names.index(column)]
        table[key] = _column(raw, wire)
    return table


def _column(raw: Any, wire: int) -> Any:
    import pyarrow as pa

    missing = raw == NULL
    if wire == codec_kernel.WIRE_PRICE:
        return pa.array(raw / PRICE_UNIT, mask=missing)
    if wire == codec_kernel.WIRE_FLAG:
        return pa.array(raw.astype(bool), mask=missing)
    if wire in (codec_kernel.WIRE_TEXT, codec_kernel.WIRE_LIST):
        return pa.array([unpack(value) or None for value in raw.tolist()], pa.string())
    return pa.array(np.ascontiguousarray(raw), mask=missing)


def _folders(path: str, publishers: Sequence[str]) -> list[tuple[str, Path]]:
    """Name and folder of each log that is meant; raises FabricError for one that there is not."""
    logs: dict[str, JournalSettings] = {
        publisher.name: publisher.journal
        for publisher in topology.load(path).publishers()
        if publisher.journal is not None
    }
    for name in publishers:
        if name not in logs:
            raise FabricError(f"no publisher {name!r} keeps a log (there are {', '.join(logs) or 'none'})")
    return [
        (name, journal.log_folder(settings, name))
        for name, settings in logs.items()
        if not publishers or name in publishers
    ]


def _described(name: str, segments: Sequence[Segment]) -> dict[str, Any]:
    first, last = (segments[0], segments[-1]) if segments else (None, None)
    return {
        "publisher": name,
        "segments": len(segments),
        "records": sum(segment.records for segment in segments),
        "first": first.first if first else 0,
        "last": last.last if last else 0,
        "first_ns": first.first_ns if first else 0,
        "last_ns": last.last_ns if last else 0,
        "bytes": sum(segment.size for segment in segments),
        "holes": sum(segment.holes for segment in segments),
        "suspect": sum(segment.suspect for segment in segments),
    }


def _examined(file: Path) -> Segment:
    """A segment by its records, and no further than its trailer says where it has one."""
    known = journal.inspect(file)
    return journal.examine(file, file.read_bytes(), known.end)
