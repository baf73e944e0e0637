"""How the model of a checkpoint is loaded, as settings."""

from dataclasses import dataclass
from pathlib import Path

import torch

from igm.models.codec import DEFAULT_MODEL
from igm.models.denoiser import Denoiser
from igm.models.stable_diffusion import StableDiffusion
from igm.models.unet import read_config
from igm.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class DenoiserLoading(Settings):
    """A trained network, its schedule and codec; a checkpoint's own configs win over those given."""

    scheduler_config: str | None = setting(None, "noise schedule, for a checkpoint that has none")
    unet_config: str | None = setting(None, "accepted as published; the checkpoint's own is used", determines=False)
    pretrained_model_name: str | None = setting(
        None, f"folder or hub id of the codec (default: the checkpoint's, or {DEFAULT_MODEL})"
    )
    no_ema: bool = setting(False, "the weights themselves, not their running average")
    revision: str | None = setting(None, "branch, tag or commit on the hub")
    local_files_only: bool = setting(False, "never ask the hub", determines=False)

    def load(self, checkpoint: str | Path) -> Denoiser:
        """The denoiser of a checkpoint; a note says where `unet_config` differs from its own config."""
        denoiser = Denoiser.from_pretrained(
            checkpoint,
            codec=self.pretrained_model_name,
            scheduler_config=self.scheduler_config,
            ema=not self.no_ema,
            local_files_only=self.local_files_only,
            revision=self.revision,
        )
        self.note_other_config(denoiser.network.config)
        return denoiser

    def note_other_config(self, own: dict) -> None:
        """Say so when --unet_config differs from the checkpoint's own config, which is used."""
        if self.unet_config is None:
            return
        given = read_config(self.unet_config, "--unet_config")
        differing = [
            n for n, v in given.items() if not n.startswith("_") and n in own and _listed(own[n]) != _listed(v)
        ]
        if differing:
            names = ", ".join(differing)
            print(f"note: --unet_config differs from the checkpoint's own config in {names}; the checkpoint's is used")


@dataclass(frozen=True, kw_only=True)
class PipelineLoading(Settings):
    """A pretrained text-to-image pipeline."""

    revision: str | None = setting(None, "branch, tag or commit on the hub")
    local_files_only: bool = setting(False, "never ask the hub", determines=False)
    slicing: bool = setting(False, "attention and VAE in parts: less memory, more time", determines=False)
    cpu_offload: bool = setting(False, "each part on the GPU only while it works", determines=False)

    def load(self, checkpoint: str | Path, device: torch.device, precision: str) -> StableDiffusion:
        """The pipeline, whose weights have the precision of its arithmetic."""
        return StableDiffusion.from_pretrained(
            checkpoint,
            dtype={"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32),
            device=device,
            slicing=self.slicing,
            cpu_offload=self.cpu_offload,
            local_files_only=self.local_files_only,
            revision=self.revision,
        )


def _listed(value):
    """Tuples as lists, as JSON has them."""
    return list(value) if isinstance(value, tuple) else value
