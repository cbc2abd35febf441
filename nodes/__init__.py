"""The programs: market in, information out. One program, one process; they meet on the bus only."""
