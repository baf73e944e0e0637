"""The codec's posterior of every image, computed once and kept: what a training step needs of an image never changes.

A cache is a folder `latents-<dataset>-<codec>/`:
    index.json         what it was made from, and its shape (N, 2, C, H, W): mean and standard deviation
    posteriors.f16     the values, float16, one image after the other
    blocks.crc32       one checksum per block of BLOCK images, 0 where the block is not written yet

A block counts only while its checksum fits. So a build that was killed goes on where it stopped, and a file that a crash or
another program damaged is found when it is opened, and just the damaged blocks are made again.
"""

import errno
import json
import math
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from igm import warn
from igm.files import replace_json
from igm.models.codec import Codec, codec_fingerprint
from igm.training.batches import quiet_threads
from igm.training.faults import faults_in_one_line

BLOCK = 64  # images encoded, checked and made again together
INDEX_FILE, VALUES_FILE, CHECKSUM_FILE = "index.json", "posteriors.f16", "blocks.crc32"


class CachedLatents(Dataset):
    """A dataset whose images are replaced by the mean and standard deviation of their latents.

    Items hold `posterior_mean` and `posterior_std` (C, H, W) float32 instead of `pixel_values`; the rest is unchanged. The
    values stay on the disk, memory-mapped.

    Args:
        dataset: yields `pixel_values`, and has `annotation(i)` and `fingerprint()`.
        path: the folder made by `build_cache`.
    """

    def __init__(self, dataset, path: Path):
        self.dataset = dataset
        shape = tuple(json.loads((Path(path) / INDEX_FILE).read_text())["shape"])
        self.posteriors = np.memmap(Path(path) / VALUES_FILE, np.float16, mode="r", shape=shape)  # (N, 2, C, H, W)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> dict:
        mean, std = torch.from_numpy(self.posteriors[i].astype(np.float32))  # (C, H, W) each
        return {"posterior_mean": mean, "posterior_std": std, **self.dataset.annotation(i)}


def cache_path(folder: Path, dataset, codec: Codec) -> Path:
    """The cache of exactly this dataset (files, order, resolution) and this codec (weights)."""
    return Path(folder) / f"latents-{dataset.fingerprint()}-{codec_fingerprint(codec)}"


def cache_index(path: Path, dataset, codec: Codec) -> dict:
    """What `index.json` says of a cache: the key in its folder's name, the resolution, and the values' shape."""
    side = dataset.resolution // codec.downsampling
    shape = [len(dataset), 2, codec.latent_channels, side, side]
    return {"key": path.name, "resolution": dataset.resolution, "shape": shape, "dtype": "float16", "block": BLOCK}


def cache_bytes(index: dict) -> int:
    """Size of a cache's values."""
    return 2 * math.prod(index["shape"])


@torch.no_grad()
def build_cache(dataset, codec: Codec, folder: Path, *, device="cpu", num_workers: int = 0) -> Path:
    """Encode every image that the cache does not hold yet, shared out over all processes; a complete one is kept.

    Every process calls it. The folder must be the same for all.

    Raises:
        OSError: the folder cannot be written, or the disk is full; a cache that was not there before is removed.
    """
    path, state = cache_path(folder, dataset, codec), PartialState()
    index = cache_index(path, dataset, codec)
    if state.is_main_process and missing_blocks(path, index):
        open_cache(path, index)
    state.wait_for_everyone()
    todo = np.flatnonzero(read_checksums(path, index) == 0)[state.process_index :: state.num_processes]
    state.wait_for_everyone()  # nobody writes before everybody has read
    encode_blocks(dataset, codec, path, index, todo.tolist(), device, num_workers, quiet=not state.is_main_process)
    state.wait_for_everyone()
    return path


def missing_blocks(path: Path, index: dict) -> int:
    """Number of blocks to make; those whose checksum does not fit are marked so, and counted in one line.

    A folder of something else, or a damaged index, counts as empty.
    """
    total = block_count(index)
    if not path.exists():
        return total
    try:
        fits = json.loads((path / INDEX_FILE).read_text()) == index
        checksums = read_checksums(path, index)
        values = np.memmap(path / VALUES_FILE, np.uint8, mode="r", shape=(cache_bytes(index),))
    except (OSError, ValueError, RecursionError):
        fits = False
    if not fits:
        warn(f"{path} is not a cache of this data and codec, or is damaged; making it again")
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        return total
    size = 2 * math.prod(index["shape"][1:]) * BLOCK  # bytes
    torn = [b for b in np.flatnonzero(checksums) if checksum(values[b * size : (b + 1) * size]) != checksums[b]]
    if torn:
        warn(f"{path}: {len(torn)} of {total} blocks are damaged; making them again")
        checksums[torn] = 0
        write_at(path / CHECKSUM_FILE, 0, checksums.tobytes())
    return int((checksums == 0).sum())


def open_cache(path: Path, index: dict) -> None:
    """Reserve the space of a new cache, or say how much of one that was begun is done.

    Raises:
        OSError: not enough space; nothing is left.
    """
    size = f"{cache_bytes(index) / 1e6:,.1f} MB in {path}"
    if path.exists():
        done = int((read_checksums(path, index) != 0).sum())
        print(f"Latents of {index['shape'][0]:,} images: {size}; {done} of {block_count(index)} blocks are there")
        return
    print(f"Latents of {index['shape'][0]:,} images: {size}")
    try:
        path.mkdir(parents=True)
        reserve(path / VALUES_FILE, cache_bytes(index))
        reserve(path / CHECKSUM_FILE, 4 * block_count(index))
        replace_json(path / INDEX_FILE, index)
    except OSError as error:
        shutil.rmtree(path, ignore_errors=True)
        raise OSError(error.errno, error.strerror, str(path)) from None


def encode_blocks(
    dataset, codec: Codec, path: Path, index: dict, blocks: list[int], device, num_workers: int, *, quiet: bool
) -> None:
    """Write the posteriors of some blocks of images, each followed by its checksum."""
    size = 2 * math.prod(index["shape"][1:]) * BLOCK  # bytes
    rows: list[Any] = [range(b * BLOCK, min((b + 1) * BLOCK, len(dataset))) for b in blocks]
    loader = DataLoader(Pixels(dataset), batch_sampler=rows, num_workers=num_workers, worker_init_fn=quiet_threads)
    bar = tqdm(total=sum(map(len, rows)), desc="encoding", unit="image", leave=False, disable=quiet or not rows)
    with bar, faults_in_one_line(num_workers):
        for block, images in zip(blocks, loader, strict=True):
            both = torch.stack(codec.posterior(images.to(device)), dim=1)  # (b, 2, C, H, W)
            values = both.half().cpu().numpy().tobytes()
            write_at(path / VALUES_FILE, block * size, values)
            write_at(path / CHECKSUM_FILE, 4 * block, np.uint32(checksum(values)).tobytes())
            bar.update(len(images))


class Pixels(Dataset):
    """The images of a dataset alone."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.dataset[i]["pixel_values"]


def block_count(index: dict) -> int:
    """Number of blocks of a cache."""
    return math.ceil(index["shape"][0] / BLOCK)


def checksum(values) -> int:
    """CRC-32 of bytes, never 0, which stands for a block that is not there."""
    return zlib.crc32(values) or 1


def read_checksums(path: Path, index: dict) -> np.ndarray:
    """The checksum of every block (uint32), 0 where it is missing.

    Raises:
        ValueError: there is not one for each block.
    """
    checksums = np.frombuffer((path / CHECKSUM_FILE).read_bytes(), np.uint32).copy()
    if len(checksums) != block_count(index):
        raise ValueError(f"{path}: {len(checksums)} checksums for {block_count(index)} blocks")
    return checksums


def reserve(path: Path, size: int) -> None:
    """Create a file of zeros whose space is really there, so that filling it cannot fail later."""
    with open(path, "wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)


def write_at(path: Path, offset: int, values: bytes) -> None:
    """Write bytes at a place of an existing file."""
    with open(path, "r+b", buffering=0) as file:
        file.seek(offset)
        if file.write(values) != len(values):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
