"""The Denoiser: a network, its noise schedule and its codec behind one interface that inference and sampling share."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import nn

from igm.facts import FACTS_FILE, Facts
from igm.files import replace_json
from igm.hub import NETWORK_DIR
from igm.models import ModelError
from igm.models.attention import use_single_token_attention
from igm.models.checkpoint import fetch_folder, load_network, load_scheduler, read_facts
from igm.models.codec import DEFAULT_MODEL, Codec, load_codec
from igm.models.compilation import compiled_agrees
from igm.models.composition import compose
from igm.models.configs import one_line, read_config
from igm.models.drawing import DrawingUNet
from igm.models.precision import autocast
from igm.models.separable import SeparableUNet
from igm.models.unet import SharedTrunkUNet, UNet2DConditionModel, build_network, cond_size
from igm.resources import CONFIGS

# The published checkpoints have no schedule and no facts of their own: the config and the facts for each size of condition.
# CelebA's were trained on pixels in [0, 1].
PUBLISHED: dict[int, tuple[str, Facts]] = {
    2: ("clevr-2D-pos", Facts(task="positions")),
    6: (
        "celeba",
        Facts(task="attributes", attributes=("Black_Hair", "Eyeglasses", "Smiling"), pixel_range=(0.0, 1.0)),
    ),
}


class Denoiser(nn.Module):
    """Predicts the noise of an image under one concept, and knows how images become noisy latents.

    Args:
        network: a UNet2DConditionModel or a SharedTrunkUNet, possibly wrapped (DDP, compile).
        scheduler: alphas_cumprod and prediction type ("epsilon" or "v_prediction").
        codec: image <-> latents; None where only latents are handled.
        facts: what the checkpoint knows about itself (resolution, min_separation, ...), or what its `igm.json` holds.

    Attributes:
        precision: of the network's arithmetic in what it predicts: no, fp16 or bf16. All else stays in float32.

    Raises:
        ModelError: the scheduler predicts something else than epsilon or v.
    """

    network: Any  # diffusers' or the project's; wrapped, its own attributes are the wrapper's `module`'s
    codec: Any  # a Codec; None where only latents are handled
    precision = "no"
    alphas_cumprod: torch.Tensor

    def __init__(
        self,
        network: nn.Module,
        scheduler: DDPMScheduler,
        codec: Codec | None = None,
        facts: Facts | Mapping[str, Any] | None = None,
    ):
        super().__init__()
        kind = scheduler.config.prediction_type
        if kind not in ("epsilon", "v_prediction"):
            raise ModelError(f"prediction_type {kind!r} of the scheduler is not supported; use epsilon or v_prediction")
        self.network, self.scheduler, self.codec = network, scheduler, codec
        self.facts = facts if isinstance(facts, Facts) else Facts.from_json(facts or {})
        self.shares_trunk = isinstance(getattr(network, "module", network), SharedTrunkUNet)
        self.is_separable = isinstance(getattr(network, "module", network), SeparableUNet)
        # Whether its network takes all concepts of an image in one pass.
        self.composes = isinstance(getattr(network, "module", network), SeparableUNet | DrawingUNet)
        if not self.shares_trunk:
            use_single_token_attention(network)
        self.register_buffer("alphas_cumprod", scheduler.alphas_cumprod.float(), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.alphas_cumprod.device

    @property
    def num_timesteps(self) -> int:
        """Length of the noise schedule."""
        return len(self.alphas_cumprod)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the latents."""
        config = getattr(self.network, "module", self.network).config
        return config.in_channels, config.sample_size, config.sample_size

    @property
    def cond_size(self) -> int:
        """D, the size of one condition."""
        return cond_size(getattr(self.network, "module", self.network).config)

    @property
    def composition(self) -> str:
        """How its concepts combine: "sum" (a_k, 1 each) or "mean" (w_k, which sum to 1)."""
        return getattr(self.network, "module", self.network).composition if self.composes else "mean"

    @property
    def resolution(self) -> int:
        """Side in pixels of the images that the network was trained on."""
        return self.latent_shape[1] * self.codec.downsampling

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the latents (B, C, H, W) of images (B, 3, R, R) in [-1, 1]."""
        low, high = self.facts.pixel_range
        if (low, high) != (-1, 1):
            images = low + (images + 1) * ((high - low) / 2)
        return self.codec.posterior(images)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, R, R), about [-1, 1], of latents (B, C, H, W)."""
        images = self.codec.decode(latents)
        low, high = self.facts.pixel_range
        return images if (low, high) == (-1, 1) else (images - low) * (2 / (high - low)) - 1

    def add_noise(self, x_0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, for t (B,)."""
        signal, noise = self._signal_noise(t)
        return signal * x_0 + noise * eps  # (B, C, H, W)

    def target(self, x_0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """What the network should predict: eps, or v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0."""
        if self.scheduler.config.prediction_type == "epsilon":
            return eps
        signal, noise = self._signal_noise(t)
        return signal * eps - noise * x_0  # (B, C, H, W)

    def _signal_noise(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        abar = self.alphas_cumprod[t].view(-1, 1, 1, 1)
        return abar.sqrt(), (1 - abar).sqrt()

    def predict_pairs(
        self, x_t: torch.Tensor, t: torch.Tensor, conds: torch.Tensor, index: torch.Tensor
    ) -> torch.Tensor:
        """Predict for pairs (image, concept), so that padding is never computed (design identity 3).

        Args:
            x_t: noisy latents (B, C, H, W). t: timesteps (B,).
            conds: (P, D), or (P, L, D) for text. index: (P,), the row of `x_t` that each pair belongs to.

        Returns:
            predictions (P, C, H, W), float32.
        """
        with autocast(self.device, self.precision):
            if self.shares_trunk:
                return self.network(x_t, t, conds, index).float()
            tokens = conds[:, None] if conds.ndim == 2 else conds  # (P, L, D)
            return self.network(x_t[index], t[index], encoder_hidden_states=tokens).sample.float()

    def predict_composed(
        self, x_t: torch.Tensor, t: torch.Tensor, conds: torch.Tensor, weights: torch.Tensor, index: torch.Tensor
    ) -> torch.Tensor:
        """The prediction of each image's composition: sum_k w_k f_k, or what the network was trained with.

        Args:
            x_t, t, conds, index: as in `predict_pairs`. weights: (P,), w_k, 1 / K of each image, 0 for padding.

        Returns:
            predictions (B, C, H, W), float32.
        """
        if self.composes:
            weights = getattr(self.network, "module", self.network).weights_in_sum(weights)
        return self.predict_weighted(x_t, t, conds, weights, index)

    def predict_weighted(
        self, x_t: torch.Tensor, t: torch.Tensor, conds: torch.Tensor, weights: torch.Tensor, index: torch.Tensor
    ) -> torch.Tensor:
        """`predict_composed` with any weights, which enter as they are: sum_k w_k f_k, or a_k of m = sum_k a_k phi."""
        if self.composes:
            with autocast(self.device, self.precision):
                return self.network(x_t, t, conds, index, weights).float()
        return compose(self.predict_pairs(x_t, t, conds, index), weights, index, len(x_t))

    def predict_replaced(
        self,
        x_t: torch.Tensor,
        t: torch.Tensor,
        conds: torch.Tensor,
        weights: torch.Tensor,
        index: torch.Tensor,
        replacements: tuple[torch.Tensor, torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`predict_composed`, and by how much it would change with one concept replaced by another.

        Args:
            replacements: concepts (Q, D), and the pairs (Q,) whose places they take, each alone.

        Returns:
            predictions (B, C, H, W), and Q changes of them (Q, C, H, W), float32.
        """
        if self.composes:
            weights = getattr(self.network, "module", self.network).weights_in_sum(weights)
            with autocast(self.device, self.precision):
                composed, changes = self.network(x_t, t, conds, index, weights, replacements)
            return composed.float(), changes.float()
        others, replaced = replacements
        both = self.predict_pairs(x_t, t, torch.cat([conds, others]), torch.cat([index, index[replaced]]))
        own, theirs = both.split([len(conds), len(others)])
        changes = weights[replaced, None, None, None].to(own) * (theirs - own[replaced])  # (Q, C, H, W)
        return compose(own, weights, index, len(x_t)), changes

    def trial_pass(self, network: nn.Module, rows: int, images: int) -> torch.Tensor:
        """What `network`, of this one's kind, predicts for `rows` empty pairs of `images`, on the default device."""
        x_t, t = torch.empty(images, *self.latent_shape), torch.empty(images, dtype=torch.long)
        conds, index = torch.empty(rows, self.cond_size), torch.empty(rows, dtype=torch.long)
        return Denoiser(network, self.scheduler).predict_pairs(x_t, t, conds, index)

    def share(self, x_t: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What all concepts of a noisy image share, computed once: (x_t, t) itself, or the trunk's features."""
        with autocast(self.device, self.precision):
            return self.network.encode(x_t, t) if self.shares_trunk else (x_t, t)

    def predict_shared(
        self, shared: tuple[torch.Tensor, ...], conds: torch.Tensor, index: torch.Tensor
    ) -> torch.Tensor:
        """`predict_pairs` from what `share` gave; for many questions about the same noisy images."""
        if self.shares_trunk:
            with autocast(self.device, self.precision):
                return self.network.decode(shared, conds, index).float()
        x_t, t = shared
        return self.predict_pairs(x_t, t, conds, index)

    def predict(self, x_t: torch.Tensor, t: torch.Tensor, conds: torch.Tensor) -> torch.Tensor:
        """Predict for K concepts of each image: x_t (B, C, H, W), t (B,), conds (B, K, D) -> (B, K, C, H, W)."""
        b, k = conds.shape[:2]
        index = torch.arange(b, device=x_t.device).repeat_interleave(k)
        return self.predict_pairs(x_t, t, conds.flatten(0, 1), index).unflatten(0, (b, k))

    def compile_network(self, *, gradients: bool = True) -> bool:
        """Let torch.compile make faster code of the network for inference; batches may have any size.

        Args:
            gradients: whether gradients of the conditions are needed as well.

        Returns:
            whether the code gives the eager numbers; if not, it is dropped.
        """
        parts = ("encode", "decode") if self.shares_trunk else ("forward",)
        own = {name: value for name, value in vars(self.network).items() if name in parts}  # as offloading sets them
        for part in parts:
            setattr(self.network, part, torch.compile(getattr(self.network, part), dynamic=True))
        if all(compiled_agrees(functools.partial(self._try_out, kind)) for kind in {False, gradients}):
            return True
        for part in parts:
            delattr(self.network, part)  # the class's own shows again
        vars(self.network).update(own)
        return False

    def check_runs(self, what: str) -> None:
        """Try the network on small latents.

        Raises:
            ModelError: it does not run, or predicts no numbers of the latents' shape; names `what`.
        """
        config, (channels, side, _) = self.network.config, self.latent_shape
        if not self.shares_trunk:  # a convolutional network takes any size: the smallest that it can halve
            side = min(side, 2 ** (len(config.block_out_channels) - 1))
        try:
            (prediction,) = self._try_out(False, side)
        except (RuntimeError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
            raise ModelError(
                f"{what} does not run ({one_line(error)[:120]}); its config is not that of its weights"
            ) from None
        if prediction.shape != (2, channels, side, side) or not prediction.square().mean().isfinite():
            raise ModelError(f"{what} predicts no finite numbers; its weights or its config are damaged: name another")

    def _try_out(self, gradient: bool, side: int | None = None) -> tuple[torch.Tensor, ...]:
        """The prediction (2, C, H, W) for two pairs of fixed random numbers, or its gradient in the conditions (2, D)."""
        generator, place = torch.Generator().manual_seed(0), (self.device, next(self.network.parameters()).dtype)
        shape = (self.latent_shape[0], *[side or self.latent_shape[1]] * 2)
        x_t = torch.randn(2, *shape, generator=generator).to(*place)
        conds = torch.rand(2, self.cond_size, generator=generator).to(*place).requires_grad_(gradient)
        t = torch.tensor([self.num_timesteps // 4, self.num_timesteps // 2], device=self.device)
        with torch.set_grad_enabled(gradient):
            prediction = self.predict_pairs(x_t, t, conds, torch.arange(2, device=self.device))
            return torch.autograd.grad(prediction.square().sum(), conds) if gradient else (prediction,)

    def save_pretrained(self, folder: str | Path, **options) -> None:
        """Write network, scheduler, codec and facts so that `from_pretrained` needs nothing else."""
        folder = Path(folder)
        getattr(self.network, "module", self.network).save_pretrained(folder / NETWORK_DIR, **options)
        self.scheduler.save_pretrained(folder / "scheduler")
        if self.codec is not None:
            self.codec.save_pretrained(folder / "vae")
        replace_json(folder / FACTS_FILE, self.facts.to_json())

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        codec: str | Path | None = None,
        scheduler_config: str | Path | None = None,
        ema: bool = True,
        local_files_only: bool = False,
        revision: str | None = None,
    ) -> "Denoiser":
        """Load a folder written by `save_pretrained`, a training `checkpoint-<step>`, or one of the published code.

        Args:
            folder: local folder, or a repository of the hub.
            codec: folder or hub id of the codec where the folder has no `vae/` (default: the one it was trained with).
            scheduler_config: used where the folder has no `scheduler/` (default for the published networks: theirs).
            ema: take the averaged weights where there are any.
            revision: branch, tag or commit of a repository of the hub.

        Raises:
            ModelError: no weights there, or not usable; one line with the mend.
        """
        folder = fetch_folder(folder, local_files_only, revision)
        network = load_network(folder, ema)
        if "in_channels" not in network.config:
            raise ModelError(
                f"checkpoint {folder} holds a {type(network).__name__}, which denoises nothing; name another"
            )
        published = isinstance(network, UNet2DConditionModel) and PUBLISHED.get(cond_size(network.config))
        facts = read_facts(folder, published[1] if published else Facts())
        schedule = next((f for f in (folder / "scheduler" / "scheduler_config.json",) if f.is_file()), scheduler_config)
        if schedule is None and published:
            schedule = CONFIGS / published[0] / "scheduler" / "scheduler_config.json"
        if schedule is None:
            raise ModelError(f"checkpoint {folder} has no scheduler/; pass --scheduler_config")
        if (folder / "vae").is_dir():
            codec = folder
        loaded = load_codec(codec or facts.codec or DEFAULT_MODEL, local_files_only=local_files_only)
        denoiser = cls(network, load_scheduler(schedule), loaded, facts)
        check_codec(network.config, loaded)
        denoiser.check_runs(f"checkpoint {folder}")
        return denoiser.eval().requires_grad_(False)


def build_denoiser(
    unet_config: str | Path, scheduler_config: str | Path, codec: Codec, facts: Facts | None = None
) -> Denoiser:
    """A Denoiser with fresh weights from config files.

    Raises:
        ModelError: a config is missing, or does not fit the codec.
    """
    network = build_network(read_config(unet_config, "--unet_config"), f"--unet_config {unet_config}")
    check_codec(network.config, codec)
    return Denoiser(network, load_scheduler(scheduler_config), codec, facts)


def check_codec(network_config: dict, codec: Codec) -> None:
    """Raise ModelError unless a network takes the codec's latents."""
    expected, given = network_config["in_channels"], codec.latent_channels
    if expected != given:
        raise ModelError(
            f"the network takes latents of {expected} channels, the codec of --pretrained_model_name gives {given}; "
            "use the codec that the network was made for"
        )


def check_resolution(network: nn.Module, codec: Codec, resolution: int) -> None:
    """Raise ModelError unless images of this side become latents that the network can take."""
    network = getattr(network, "module", network)
    config: Any = network.config
    levels = 2 ** (len(config.get("block_out_channels", "1")) - 1) * codec.downsampling
    if resolution % levels:
        raise ModelError(f"--resolution {resolution} is not divisible by {levels}, which this network and codec need")
    side, own = resolution // codec.downsampling, config["sample_size"]
    if isinstance(network, SharedTrunkUNet) and side != own:  # it has a grid of its own size
        raise ModelError(
            f"--resolution {resolution} gives latents of side {side}, the network is made for {own}; "
            f"use --resolution {own * codec.downsampling}"
        )
