"""The servers that bench_gateway.py puts beside ours."""
