"""Golden bytes from files of hexadecimal text: ``name:`` begins an entry, ``#`` a comment to the end of its line."""

from pathlib import Path

DATA = Path(__file__).parent / "data"


def golden(path: str) -> dict[str, bytes]:
    """The entries of ``tests/data/<path>`` by name."""
    found: dict[str, str] = {}
    name = ""
    for line in (DATA / path).read_text().splitlines():
        text = line.split("#")[0]
        if ":" in text:
            name, _, text = text.partition(":")
            found[name.strip()] = ""
        if name:
            found[name.strip()] += text
    return {name: bytes.fromhex(text) for name, text in found.items()}
