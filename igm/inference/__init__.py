"""Inference: the network is frozen, the concepts that best denoise an image are sought."""
