"""The door: bus in, clients out."""
