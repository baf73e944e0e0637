"""From a dataset to checkpoints."""
