"""The codec's posterior of every image, computed once and kept: what a training step needs of an image never changes."""

import os
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from models.codec import Codec, codec_fingerprint


class CachedLatents(torch.utils.data.Dataset):
    """A dataset whose images are replaced by the mean and standard deviation of their latents.

    Items hold `posterior_mean` and `posterior_std` (C, H, W) float32 instead of `pixel_values`; the rest is unchanged. The
    values are kept as float16 in one memory-mapped file.

    Args:
        dataset: yields `pixel_values`, and has `labels(i)` and `fingerprint()`.
        path: the file made by `build_cache`.
    """

    def __init__(self, dataset, path: Path):
        self.dataset = dataset
        self.posteriors = np.load(path, mmap_mode="r")  # (N, 2, C, H, W) float16

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> dict:
        mean, std = torch.from_numpy(self.posteriors[i].astype(np.float32))  # (C, H, W) each
        return {"posterior_mean": mean, "posterior_std": std, **self.dataset.labels(i)}


def cache_path(folder: Path, dataset, codec: Codec) -> Path:
    """The cache file for exactly this dataset (files, order, resolution) and this codec (weights)."""
    return Path(folder) / f"latents-{dataset.fingerprint()}-{codec_fingerprint(codec)}.npy"


@torch.no_grad()
def build_cache(
    dataset, codec: Codec, folder: Path, *, device="cpu", batch_size: int = 64, num_workers: int = 0
) -> Path:
    """Encode every image once and write the posteriors; an existing complete file is kept.

    The file gets its name only when it is complete, so a run that is killed leaves no torn cache.

    Raises:
        OSError: the folder cannot be written, or the disk is full; the unfinished file is removed.
    """
    path = cache_path(folder, dataset, codec)
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    side = dataset.resolution // codec.downsampling
    shape = (len(dataset), 2, codec.latent_channels, side, side)
    print(f"Latents of {shape[0]:,} images: {np.prod(shape) * 2 / 1e6:.0f} MB in {path}")
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    loader = torch.utils.data.DataLoader(dataset, batch_size, num_workers=num_workers)
    try:
        posteriors = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
        start = 0
        for batch in tqdm(loader, "encoding", unit="batch", leave=False):
            mean, std = codec.posterior(batch["pixel_values"].to(device))
            both = torch.stack([mean, std], dim=1).cpu().numpy()  # (b, 2, C, H, W)
            posteriors[start : start + len(both)] = both
            start += len(both)
        posteriors.flush()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
