"""Compositional scene understanding through inverse generative modeling."""
