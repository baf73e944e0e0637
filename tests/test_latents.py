"""The cache of latents: the codec's numbers, made once, by one or several processes; what is torn is made again."""

import errno
import itertools
import json
import os
import resource

import numpy as np
import pytest
import torch
from test_processes import fork_processes
from test_training import make_batches, training_loss

import igm.training.latent_cache
from igm.data.clevr import Clevr
from igm.models.codec import PatchPCA, load_codec
from igm.training.batches import Share
from igm.training.latent_cache import CachedLatents, build_cache, cache_path


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of 5 images: the 12 of the tests make 3, the last one short."""
    monkeypatch.setattr(igm.training.latent_cache, "BLOCK", 5)


@pytest.fixture
def pictures(clevr_root):
    return Clevr(clevr_root, "train", (3, 5), resolution=16)


@pytest.fixture(params=["vae", "pca"])
def codec(request, tiny_vae_dir, pictures):
    if request.param == "vae":
        return load_codec(tiny_vae_dir).eval().requires_grad_(False)
    codec = PatchPCA(2, 4, 0.5)
    codec.fit(torch.stack([pictures[i]["pixel_values"] for i in range(4)]))
    return codec


def caches(folder):
    return sorted(p.name for p in folder.iterdir() if p.name != "igm-cache")


def test_cached_posteriors_are_the_codecs(pictures, codec, tmp_path):
    path = build_cache(pictures, codec, tmp_path)
    cached = CachedLatents(pictures, path)
    assert len(cached) == 12
    for i in (0, 4, 11):
        item, original = cached[i], pictures[i]
        mean, std = codec.posterior(original["pixel_values"][None])
        assert "pixel_values" not in item and item["image_id"] == original["image_id"]
        assert torch.equal(item["conds"], original["conds"]) and torch.equal(item["mask"], original["mask"])
        assert item["posterior_mean"].dtype == torch.float32
        torch.testing.assert_close(item["posterior_mean"], mean[0], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(item["posterior_std"], std[0], rtol=1e-3, atol=1e-4)


def test_cached_training_has_the_losses_of_encoding_each_step(pictures, codec, make_denoiser, tmp_path):
    denoiser = make_denoiser("unet", codec=codec)
    cached = CachedLatents(pictures, build_cache(pictures, codec, tmp_path))
    for step in range(3):
        losses = [training_loss(denoiser, make_batches(data, Share(3), seed=0)[step]) for data in (pictures, cached)]
        torch.testing.assert_close(losses[1], losses[0], rtol=2e-3, atol=0)


def test_cache_is_built_once_per_data_and_codec(clevr_root, pictures, codec, tmp_path, monkeypatch):
    path = build_cache(pictures, codec, tmp_path)
    assert caches(tmp_path) == [path.name]
    calls = []
    original = type(codec).posterior
    monkeypatch.setattr(type(codec), "posterior", lambda self, images: calls.append(1) or original(self, images))
    assert build_cache(pictures, codec, tmp_path) == path and not calls
    with torch.no_grad():
        next(codec.parameters()).add_(0.1)  # another codec
    assert build_cache(pictures, codec, tmp_path) != path and calls
    calls.clear()
    assert build_cache(Clevr(clevr_root, "train", (3, 4), resolution=16), codec, tmp_path) != path and calls
    assert len(caches(tmp_path)) == 3


def bytes_of(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


def count_blocks(codec, monkeypatch):
    """A list that grows by the number of images of each block that is encoded."""
    original, encoded = codec.posterior, []
    monkeypatch.setattr(codec, "posterior", lambda images: encoded.append(len(images)) or original(images))
    return encoded


def test_killed_build_goes_on_where_it_stopped(pictures, tiny_vae_dir, tmp_path, monkeypatch, capsys):
    codec = load_codec(tiny_vae_dir)
    whole = bytes_of(build_cache(pictures, codec, tmp_path / "whole"))
    original, calls = codec.posterior, itertools.count()

    def killed(images):
        if next(calls) == 1:
            raise KeyboardInterrupt
        return original(images)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(codec, "posterior", killed)
        build_cache(pictures, codec, tmp_path / "killed")
    encoded = count_blocks(codec, monkeypatch)
    capsys.readouterr()
    path = build_cache(pictures, codec, tmp_path / "killed")
    assert encoded == [5, 2]  # not the first block again
    assert "1 of 3 blocks" in capsys.readouterr().out
    assert bytes_of(path) == whole


def damage(path, kind):
    """Damage a cache; return how many blocks must be made again."""
    values, checks, index = (path / name for name in ("posteriors.f16", "blocks.crc32", "index.json"))
    if kind == "a bit flipped":
        content = bytearray(values.read_bytes())
        content[len(content) // 2] ^= 1  # in the second block
        values.write_bytes(content)
        return 1
    if kind == "zeros, as after a power cut":
        content = values.read_bytes()
        values.write_bytes(content[:100] + bytes(len(content) - 100))
        return 3
    if kind == "cut":
        os.truncate(values, 1000)
    elif kind == "no checksums":
        checks.unlink()
    elif kind == "cut checksums":
        os.truncate(checks, 6)
    elif kind == "no index":
        index.unlink()
    elif kind == "cut index":
        index.write_text(index.read_text()[:30])
    elif kind == "deep index":
        index.write_text("[" * 100_000)
    elif kind == "of another codec":
        index.write_text(json.dumps({**json.loads(index.read_text()), "key": "latents-of-another"}))
    elif kind == "of another resolution":
        index.write_text(json.dumps({**json.loads(index.read_text()), "resolution": 32, "shape": [12, 2, 4, 16, 16]}))
    return 3


@pytest.mark.parametrize(
    "kind",
    [
        "a bit flipped", "zeros, as after a power cut", "cut", "no checksums", "cut checksums", "no index", "cut index",
        "deep index", "of another codec", "of another resolution",
    ],
)  # fmt: skip
def test_damaged_cache_is_made_again_and_said_once(pictures, tiny_vae_dir, tmp_path, monkeypatch, capsys, kind):
    codec = load_codec(tiny_vae_dir)
    path = build_cache(pictures, codec, tmp_path)
    whole, again = bytes_of(path), damage(path, kind)
    encoded = count_blocks(codec, monkeypatch)
    capsys.readouterr()
    assert build_cache(pictures, codec, tmp_path) == path
    err = capsys.readouterr().err
    assert len(encoded) == again and err.count("warning:") == 1 and str(path) in err
    assert bytes_of(path) == whole
    build_cache(pictures, codec, tmp_path)
    assert len(encoded) == again and "warning:" not in capsys.readouterr().err


def test_size_is_said_before_anything_is_encoded(pictures, tiny_vae_dir, tmp_path, monkeypatch, capsys):
    codec = load_codec(tiny_vae_dir)
    monkeypatch.setattr(codec, "posterior", lambda images: pytest.fail(capsys.readouterr().out))
    with pytest.raises(pytest.fail.Exception) as caught:
        build_cache(pictures, codec, tmp_path)
    size = (cache_path(tmp_path, pictures, codec) / "posteriors.f16").stat().st_size
    assert size == 12 * 2 * 4 * 8 * 8 * 2
    assert f"12 images: {size / 1e6:,.1f} MB in {cache_path(tmp_path, pictures, codec)}" in str(caught.value)


def test_full_disk_leaves_what_was_there(pictures, tiny_vae_dir, tmp_path, clevr_root):
    """A real limit on the size of files: nothing of the new cache is left, the old one is whole."""
    codec = load_codec(tiny_vae_dir)
    old = build_cache(Clevr(clevr_root, "train", (3, 3), resolution=16), codec, tmp_path)
    whole = bytes_of(old)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, before[1]))
    try:
        with pytest.raises(OSError) as caught:
            build_cache(pictures, codec, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno in (errno.EFBIG, errno.ENOSPC)
    assert caught.value.filename == str(cache_path(tmp_path, pictures, codec))
    assert caches(tmp_path) == [old.name] and bytes_of(old) == whole


def test_two_processes_make_the_cache_of_one(pictures, tiny_vae_dir, tmp_path):
    codec = load_codec(tiny_vae_dir)
    whole = bytes_of(build_cache(pictures, codec, tmp_path / "one"))

    def build(rank):
        encoded, original = [], codec.posterior
        codec.posterior = lambda images: encoded.append(len(images)) or original(images)
        build_cache(pictures, codec, tmp_path / "two")
        (tmp_path / f"rank-{rank}").write_text(str(len(encoded)))

    fork_processes(2, build)
    assert bytes_of(cache_path(tmp_path / "two", pictures, codec)) == whole
    assert [(tmp_path / f"rank-{rank}").read_text() for rank in (0, 1)] == ["2", "1"]


def test_other_scaling_is_another_codec(pictures, tiny_vae_dir, tmp_path):
    codec = load_codec(tiny_vae_dir)
    path = cache_path(tmp_path, pictures, codec)
    codec.vae.register_to_config(scaling_factor=0.25)
    assert cache_path(tmp_path, pictures, codec) != path


def test_values_stay_on_the_disk(pictures, tiny_vae_dir, tmp_path):
    cached = CachedLatents(pictures, build_cache(pictures, load_codec(tiny_vae_dir), tmp_path))
    assert isinstance(cached.posteriors, np.memmap) and cached.posteriors.dtype == np.float16
