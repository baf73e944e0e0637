"""Command lines: types and groups of options, launching, exit codes."""
