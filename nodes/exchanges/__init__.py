"""Simulated exchanges: the other end of the wires that nodes/feeds decodes."""
