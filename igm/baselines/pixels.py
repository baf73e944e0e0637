"""What baselines share that read their answers off the pixels: no codec, no noise schedule, one pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers import ConfigMixin, ModelMixin
from torch import nn
from torch.utils.data import default_collate

from igm.facts import Facts
from igm.inference.method import Method
from igm.models import ModelError
from igm.models.checkpoint import fetch_folder, load_network
from igm.models.compilation import compiled_agrees
from igm.models.unet import build_network, read_config
from igm.settings import Settings, setting
from igm.training.compositional import check_kind, copy_weights
from igm.training.learner import Batch, Item, Learner
from igm.training.settings import ModelSettings, TrainSettings

NO_DIFFUSION = frozenset(
    {
        *("scheduler_config", "pretrained_model_name", "revision", "gradient_checkpointing", "no_latent_cache"),
        *("enable_xformers_memory_efficient_attention", "offset_noise", "snr_gamma", "contrast", "t_logit_normal"),
        *("num_validation_images", "val_batch_size", "validation_scheduler"),
    }
)  # options without effect where nothing is noised, encoded or generated


class PixelNetwork(ModelMixin, ConfigMixin):
    """A network whose input is images; its config has `sample_size`, their side in pixels, and `cond_size`, D."""

    def example(self, images: int) -> tuple[torch.Tensor, ...]:
        """Empty inputs for some images, on the default device; they measure the network's memory."""
        return (torch.empty(images, 3, self.config.sample_size, self.config.sample_size),)


class PixelModel(nn.Module):
    """A trained `PixelNetwork` with what is known of it.

    Args:
        network: possibly wrapped (DDP). facts: of the training data.
    """

    codec = None  # it reads pixels

    def __init__(self, network: nn.Module, facts: Facts | None = None):
        super().__init__()
        self.network: Any = network
        self.facts = facts or Facts()

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.network.parameters()).device

    @property
    def cond_size(self) -> int:
        """D, the size of one condition."""
        return self.network.config.cond_size

    @property
    def resolution(self) -> int:
        """Side in pixels of the images that the network was trained on."""
        return self.network.config.sample_size

    def trial_pass(self, network: Any, rows: int, images: int) -> torch.Tensor:
        """As `Denoiser.trial_pass`; an image is one row, so that `rows` say nothing."""
        return network(*network.example(images))

    def compile_network(self, *, gradients: bool = True) -> bool:
        """Let torch.compile make faster code of the network; whether it gives the eager numbers. If not, it is dropped."""
        self.network.compile(dynamic=True)
        inputs = [torch.randn_like(one).to(self.device) for one in self.network.example(2)]

        def answer() -> list[torch.Tensor]:
            found = self.network(*inputs)
            return [found if isinstance(found, torch.Tensor) else found[0]]

        with torch.no_grad():
            agrees = compiled_agrees(answer)
        if not agrees:
            self.network._compiled_call_impl = None  # what Module.compile sets
        return agrees

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        kind: type[PixelNetwork],
        learner: str,
        *,
        ema: bool = False,
        local_files_only: bool = False,
    ) -> Self:
        """Load a training checkpoint, in eval mode.

        Args:
            kind: what it must hold. learner: name of what trains such a network, for the message.
            ema: take the averaged weights where there are any.

        Raises:
            ModelError: no weights there, or of another network.
        """
        folder = fetch_folder(folder, local_files_only)
        network = load_network(folder, ema=ema)
        if not isinstance(network, kind):
            raise ModelError(f"checkpoint {folder} holds no {kind.__name__}; name one of --learner {learner}")
        return cls(network, Facts.read(folder)).eval().requires_grad_(False)


class PixelLearner(Learner):
    """Trains a `PixelNetwork`; a subclass names its kind, and says what is minimised."""

    network_class: ClassVar[type[PixelNetwork]]
    inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "conds", "mask")  # of an item, that the loss needs
    idle_options = NO_DIFFUSION

    @classmethod
    def build(cls, model: ModelSettings, training: TrainSettings, facts: Facts) -> Self:
        """A network of the config, for images of the facts' resolution."""
        return cls(cls.fresh_network(model, facts), facts)

    @classmethod
    def fresh_network(cls, model: ModelSettings, facts: Facts, **changes: Any) -> PixelNetwork:
        """The network of `--unet_config`, with some values changed, or with the weights of `--initialize_from`.

        The values are changed before it is built: diffusers takes later ones for defaults when it makes a copy.

        Raises:
            ModelError: the config is of another network.
        """
        own = {**read_config(model.unet_config, "--unet_config"), "sample_size": facts.resolution, **changes}
        network = build_network(own, f"--unet_config {model.unet_config}")
        check_kind(network, cls.network_class, model)
        if model.initialize_from:
            copy_weights(load_network(Path(model.initialize_from), ema=False), network, model.initialize_from)
        return network

    @classmethod
    def collate(cls, items: Sequence[Item], static_shapes: bool = False) -> Batch:
        """Each of `inputs` of the items, (B, ...); all batches have one shape."""
        return default_collate([{name: item[name] for name in cls.inputs} for item in items])

    def trial_pass(self, network: Any, rows: int, images: int) -> torch.Tensor:
        """An image is one row, whatever its concepts."""
        return network(*network.example(images))


@dataclass(frozen=True, kw_only=True)
class PixelLoading(Settings):
    """A trained network that reads pixels has no parts that could lie elsewhere."""

    local_files_only: bool = setting(False, "never ask the hub", determines=False)


class PixelMethod(Method):
    """A method whose model is a trained `PixelNetwork`."""

    loading_class: ClassVar[type[Settings]] = PixelLoading
    network_class: ClassVar[type[PixelNetwork]]
    averaged: ClassVar[bool] = True  # take averaged weights; not where statistics of batches belong to the weights
    model: PixelModel

    @classmethod
    def facts_of(cls, checkpoint: str | Path, loading: Any) -> Facts:
        """Those of its folder."""
        return Facts.read(fetch_folder(checkpoint, loading.local_files_only))

    @classmethod
    def load(cls, checkpoint: str | Path, loading: Any, device: torch.device, precision: str) -> PixelModel:
        """The network of a checkpoint, with its facts."""
        options = {"ema": cls.averaged, "local_files_only": loading.local_files_only}
        return PixelModel.from_pretrained(checkpoint, cls.network_class, cls.learner, **options).to(device)
