"""The method's own learner: E || y - f_w(x_t, t) ||^2, where f_w = sum_k w_k f(x_t, t | c_k), over the network."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn
from torch.utils.data import default_collate

from igm import warn
from igm.composition import pack
from igm.data.varied import Forgetting
from igm.facts import Facts
from igm.models import ModelError
from igm.models.attention import idle_parameters, use_single_token_attention
from igm.models.checkpoint import load_network
from igm.models.codec import DEFAULT_MODEL, Codec, codec_fingerprint, load_codec
from igm.models.denoiser import Denoiser, build_denoiser, check_resolution
from igm.models.unet import one_line
from igm.objective import Noise, composed_error, contrasted_error, snr_weights
from igm.training.batches import StepNoise, pad_pairs
from igm.training.codecs import is_unfitted, unfitted_codec
from igm.training.learner import Batch, Item, Learner
from igm.training.previews import validation_pictures
from igm.training.settings import ModelSettings, TrainSettings

PAIRS = ("conds", "weights", "index")  # of `pack`
IMAGES = ("posterior_mean", "posterior_std", "pixel_values")  # what an item may hold of its image


class CompositionalLearner(Learner):
    """Trains a denoiser whose predictions for single concepts, composed, denoise the image.

    How predictions compose is the denoiser's own: a network that composes otherwise than by the mean says so there.

    Args:
        denoiser: network, schedule, codec and facts. snr_gamma: of min-SNR weights, None for equal weights.
        contrast: weight of telling concepts from mistaken ones, where the batches have these; None or 0 for none.
    """

    name = "compositional"
    draws = sees_conds = True
    forgetting = Forgetting()
    network_class: ClassVar[type[nn.Module] | None] = None  # of its networks, where it is for one kind

    def __init__(self, denoiser: Denoiser, snr_gamma: float | None = None, contrast: float | None = None):
        super().__init__(denoiser.network, denoiser.facts)
        self.denoiser, self.snr_gamma, self.contrast = denoiser, snr_gamma, contrast
        self.scheduler: Any = denoiser.scheduler

    @classmethod
    def build(cls, model: ModelSettings, training: TrainSettings, facts: Facts) -> Self:
        """A trainable network in float32 with a frozen codec.

        Raises:
            ModelError: also for a network that another learner is for, and a contrast where there is nothing to mistake.
        """
        if cls.contrasts(training) and not facts.vocabulary:
            raise ModelError(
                "--contrast needs attributes of objects, to mistake one; add --fields all, or leave it out"
            )
        denoiser = fresh_denoiser(model, facts)
        if (own := getattr(denoiser.network, "learner", cls.name)) != cls.name:
            raise ModelError(f"--unet_config {model.unet_config} is of a network for --learner {own}; add that")
        if cls.network_class is not None:
            check_kind(denoiser.network, cls.network_class, model)
        return cls(denoiser, training.snr_gamma, training.contrast)

    @staticmethod
    def collate(items: Sequence[Item], static_shapes: bool = False) -> Batch:
        """Images as the items hold them (B, ...); `conds` (P, ...), `weights` (P,) and `index` (P,) of `pack`.

        Where items also hold `mistaken` conditions (K, D), those that differ: `mistaken` (Q, D), the pairs that they stand
        for `replaced` (Q,), and `counted` (Q,), 0 for padding.
        """
        both = stacked(items)
        pairs = dict(zip(PAIRS, pack(both["conds"], both["mask"]), strict=True))
        wrong = {}
        if "mistaken" in both:
            mistaken = pack(both["mistaken"], both["mask"])[0]  # (P, D)
            (replaced,) = (mistaken != pairs["conds"]).any(1).nonzero(as_tuple=True)  # (Q,)
            wrong = {"mistaken": mistaken[replaced], "replaced": replaced, "counted": torch.ones(len(replaced))}
        if static_shapes:
            most = both["mask"].numel()
            pairs, wrong = pad_pairs(pairs, "weights", most), pad_pairs(wrong, "counted", most) if wrong else {}
        return {**pairs, **wrong, **{n: both[n] for n in IMAGES if n in both}}

    def loss(self, batch: Batch) -> torch.Tensor:
        """Mean denoising error of the composition, weighted where that is asked for; and the contrast to mistaken ones."""
        x_0, noise = self.latents(batch)
        told: Any = 0.0
        if not self.contrast or "mistaken" not in batch:
            error = self.error(x_0, noise, batch)  # (B,)
        else:
            pairs = [batch[name] for name in PAIRS]
            error, each = contrasted_error(self.denoiser, x_0, noise, pairs, batch["mistaken"], batch["replaced"])
            told = self.contrast * (batch["counted"] * each).sum() / len(error)
        if self.snr_gamma is not None:
            kind = self.scheduler.config.prediction_type
            abar: Any = self.denoiser.alphas_cumprod
            error = error * snr_weights(abar, batch["t"], self.snr_gamma, kind)
        return error.mean() + told

    def held_out_error(self, batch: Batch) -> torch.Tensor:
        """Denoising error (B,) of each image's composition, without weights."""
        return self.error(*self.latents(batch), batch)

    def latents(self, batch: Batch) -> tuple[torch.Tensor, Noise]:
        """x_0 (B, C, H, W), drawn from the posteriors, and the noise."""
        if "posterior_mean" in batch:
            mean, std = batch["posterior_mean"], batch["posterior_std"]  # (B, C, H, W) each
        else:
            with torch.no_grad():
                mean, std = self.denoiser.encode(batch["pixel_values"])
        return mean + std * batch["posterior_eps"], Noise(batch["t"], batch["eps"])

    def inference_model(self) -> Denoiser | None:
        """The denoiser."""
        return self.denoiser

    def error(self, x_0: torch.Tensor, noise: Noise, batch: Batch) -> torch.Tensor:
        """Denoising error (B,) of each image's composition, x_0 (B, C, H, W), on one draw each."""
        return composed_error(self.denoiser, x_0, noise, batch["conds"], batch["weights"], batch["index"])

    def identity(self) -> dict[str, Any]:
        """Also the schedule, and the codec's weights."""
        schedule = {k: v for k, v in sorted(self.scheduler.config.items()) if not k.startswith("_")}
        codec = codec_fingerprint(self.codec) if self.codec is not None else None
        return {**super().identity(), "schedule": schedule, "codec": codec}

    def trial_pass(self, network: nn.Module, rows: int, images: int) -> torch.Tensor:
        """As that of the denoiser."""
        return self.denoiser.trial_pass(network, rows, images)

    @property
    def codec(self) -> Codec | None:
        """The denoiser's."""
        return self.denoiser.codec

    def noise(self, item: Item, training: TrainSettings) -> StepNoise:
        """Timesteps and noise of the latents' shape: of those that the item holds, or that the codec will give."""
        if "posterior_mean" in item:
            shape = tuple(item["posterior_mean"].shape)
        else:
            downsampling = self.codec.downsampling if self.codec is not None else 1
            size = item["pixel_values"].shape[-1] // downsampling
            shape = (self.denoiser.latent_shape[0], size, size)
        density = training.t_logit_normal
        return StepNoise(shape, self.denoiser.num_timesteps, with_offset=training.offset_noise, logit_normal=density)

    def idle_parameters(self, item: Item) -> Iterable[nn.Parameter]:
        """Queries and keys of attention to one token; text has several (L, D), and its queries and keys are trained."""
        return idle_parameters(self.network) if item["conds"].ndim == 2 else ()

    def use(self, network: nn.Module) -> None:
        """Also in the denoiser."""
        self.network = self.denoiser.network = network

    def to(self, device: torch.device) -> None:
        """Network, schedule and codec."""
        self.denoiser.to(device)

    def save(self, folder: Path) -> None:
        """Network, schedule and facts."""
        super().save(folder)
        self.scheduler.save_pretrained(folder / "scheduler")

    def pictures(self, items: Sequence[Item], **sampling: Any) -> list[list[torch.Tensor]]:
        """The input, its composed generation, and a generation from each concept alone."""
        return validation_pictures(self.denoiser, items, **sampling)


def stacked(items: Sequence[Item]) -> Batch:
    """`conds` (B, K, D) and `mask` (B, K) of some items, and their images, and mistaken conditions, as they hold them."""
    return default_collate(
        [{n: item[n] for n in ("conds", "mask", "mistaken", *IMAGES) if n in item} for item in items]
    )


def fresh_denoiser(model: ModelSettings, facts: Facts) -> Denoiser:
    """A Denoiser whose network has fresh weights, or those of `model.initialize_from`; `facts` say the resolution.

    Raises:
        ModelError: a config or the codec is missing, or they do not fit each other.
    """
    codec_name: str | Path = model.pretrained_model_name or DEFAULT_MODEL
    if is_unfitted(codec_name):  # of a dry run; `igm.training.start` has fitted it otherwise
        codec: Codec = unfitted_codec(codec_name)
    else:
        codec = load_codec(codec_name, local_files_only=model.local_files_only, revision=model.revision)
    codec.eval().requires_grad_(False)
    if Path(codec_name).is_dir():
        codec_name = Path(codec_name).resolve()  # the checkpoint is then of use from every folder
    resolution = facts.resolution
    if resolution is None:
        raise ValueError("facts say no resolution")
    facts = dataclasses.replace(facts, codec=str(codec_name))
    denoiser = build_denoiser(model.unet_config, model.scheduler_config, codec, facts)
    network: Any = denoiser.network
    check_resolution(network, codec, resolution)
    if model.initialize_from:
        copy_weights(load_network(Path(model.initialize_from)), network, model.initialize_from)
    if denoiser.resolution != resolution:  # a convolutional network takes any; its checkpoints should say which
        network.register_to_config(sample_size=resolution // codec.downsampling)
    if model.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    if model.enable_xformers_memory_efficient_attention:
        use_xformers(network)
    return denoiser


def check_kind(network: nn.Module, kind: type[nn.Module], model: ModelSettings) -> None:
    """Raise ModelError unless the network of `--unet_config` is of this kind."""
    if not isinstance(network, kind):
        name = kind.__name__
        raise ModelError(f"--unet_config {model.unet_config} is of no {name}; leave it out for the default one")


def copy_weights(source: nn.Module, target: nn.Module, name: str) -> None:
    """Copy a checkpoint's weights into a network of the same architecture.

    Raises:
        ModelError: the architectures differ.
    """
    try:
        target.load_state_dict(source.state_dict())
    except RuntimeError:
        raise ModelError(f"--initialize_from {name} has another architecture than --unet_config; use its own") from None


def use_xformers(network: Any) -> None:
    """Use xformers' attention where it can run; say once why not, and go on with PyTorch's."""
    try:
        network.enable_xformers_memory_efficient_attention()
    except Exception as error:  # not installed, no CUDA, or built for another version of either
        cause = "is not installed" if isinstance(error, ImportError) else f"is not usable here ({one_line(error)})"
        warn(f"xformers {cause}; install it with CUDA: pip install '.[xformers]'; using PyTorch's attention")
    use_single_token_attention(network)
