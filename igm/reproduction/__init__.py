"""The tables of the paper, made again: their rows, what runs them, and the report."""
