"""The `fabric` command: one file a command; arguments and exit codes, nothing else."""
