"""The library of the market data fabric: records, bytes, wires and processes; no market rule, no client.

This file runs under the system's Python before any environment exists (``python3 -m fabric``), so it
holds nothing but the version, in syntax that every Python 3 understands.
"""

__version__ = "0.1.0"
