"""Generators of synthetic data sets in the on-disk formats of the real ones, so that no download is needed."""
