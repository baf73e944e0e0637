"""What the training loop needs of whatever is trained; a new baseline is one file with one `Learner`.

A file in `igm/training` or `igm/baselines` that defines a subclass with a `name` is all there is to do:
`--learner NAME` finds it.
"""

import contextlib
import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from accelerate import Accelerator
from torch import nn

from igm import UserError
from igm.data.varied import NOTHING, Forgetting
from igm.facts import FACTS_FILE, Facts
from igm.files import replace_json
from igm.hub import NETWORK_DIR
from igm.models.codec import Codec
from igm.training.batches import DrawsNoise
from igm.training.settings import ModelSettings, TrainSettings

Item = Mapping[str, Any]
Batch = dict[str, torch.Tensor]
RARE_OPTIONS = frozenset({"backbone"})  # without effect on a learner that does not name them
PACKAGES = ("igm.training", "igm.baselines")  # where learners are looked for, in this order


class Learner(ABC):
    """Something with a network that one loop trains. Its name is stored with every checkpoint.

    Args:
        network: what is trained, a diffusers model (`ModelMixin`). facts: of the training data, stored with checkpoints.
    """

    name: ClassVar[str] = ""
    task: ClassVar[str | None] = (
        None  # kind of concept that it is for; None: any. Learners of two kinds may share a name
    )
    suffix: ClassVar[str] = ""  # added to the name of the run, where none is given
    defaults: ClassVar[Mapping[str, Any]] = {}  # of options, in place of the script's
    idle_options: ClassVar[frozenset[str]] = frozenset()  # options that have no effect on it
    rare_options: ClassVar[frozenset[str]] = frozenset()  # of RARE_OPTIONS those that have
    draws: ClassVar[bool] = False  # whether it makes validation pictures
    any_cond_size: ClassVar[bool] = False  # whether its network is built for the data's conditions, whatever their size
    sees_conds: ClassVar[bool] = False  # whether conditions are what its network is given, not what it is to say
    forgetting: ClassVar[Forgetting] = NOTHING  # of those conditions, where they say what an object is

    def __init__(self, network: nn.Module, facts: Facts):
        self.network: Any = network  # its config, and how it is saved, are diffusers'
        self.facts = facts
        self.autocast: Callable[[], AbstractContextManager] = (
            nullcontext  # of the run, for what runs beside the network
        )

    @classmethod
    @abstractmethod
    def build(cls, model: ModelSettings, training: TrainSettings, facts: Facts) -> Self:
        """One with fresh weights (`igm.training.start` has seeded the generator), or those of `model.initialize_from`.

        Raises:
            ModelError: the configs do not describe what it trains; one line with the mend.
        """

    @classmethod
    def contrasts(cls, training: TrainSettings) -> bool:
        """Whether items with mistaken conditions are wanted."""
        return bool(training.contrast) and "contrast" not in cls.idle_options

    @staticmethod
    @abstractmethod
    def collate(items: Sequence[Item], static_shapes: bool = False) -> Batch:
        """A batch of dataset items, made in a loader process.

        Args:
            static_shapes: in one of a few shapes only, so that compiled code fits the next batch too.
        """

    @abstractmethod
    def loss(self, batch: Batch) -> torch.Tensor:
        """What is minimised, of a batch of `collate` and of the noise that `noise` asks for: a scalar."""

    def held_out_error(self, batch: Batch) -> torch.Tensor:
        """How well it does on a batch of held-out images: (B,), or one number for all of them; by default the loss."""
        return self.loss(batch)

    def inference_model(self) -> Any:
        """What methods of inference ask, with the network as it is now; None where they cannot."""
        return None

    @abstractmethod
    def trial_pass(self, network: nn.Module, rows: int, images: int) -> torch.Tensor:
        """What `network`, of this one's kind, gives for `rows` empty concepts of `images`; measures its memory."""

    @property
    def codec(self) -> Codec | None:
        """What turns pixels into what the network sees; None where that is the pixels themselves."""
        return None

    def noise(self, item: Item, training: TrainSettings) -> DrawsNoise | None:
        """What noise each step draws, for items like this one; None for none."""
        return None

    def idle_parameters(self, item: Item) -> Iterable[nn.Parameter]:
        """Parameters that no gradient reaches, for items like this one; they are left as they are."""
        return ()

    def identity(self) -> dict[str, Any]:
        """What a resumed run must share with its checkpoint: the network's shape."""
        config = bare(self.network).config
        return {"unet_config": {k: v for k, v in sorted(config.items()) if not k.startswith("_")}}

    def use(self, network: nn.Module) -> None:
        """Train through this form of the network: wrapped for several processes, or bare again."""
        self.network = network

    def to(self, device: torch.device) -> None:
        """Compute there."""
        self.network.to(device)

    def save(self, folder: Path) -> None:
        """Write all that inference needs, network first."""
        bare(self.network).save_pretrained(folder / NETWORK_DIR)
        replace_json(folder / FACTS_FILE, self.facts.to_json())

    def pictures(self, items: Sequence[Item], **sampling: Any) -> list[list[torch.Tensor]]:
        """A row of pictures (3, R, R) per item, for a person to look at; see `validation_pictures`."""
        return []


def bare(network: nn.Module) -> Any:
    """The network itself, which several processes wrap."""
    return getattr(network, "module", network)


@contextlib.contextmanager
def measuring(accelerator: Accelerator, learner: Learner) -> Iterator[None]:
    """The learner's network bare and in eval mode; what is drawn inside leaves the training's random numbers alone."""
    wrapped = learner.network
    devices = [accelerator.device] if accelerator.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        learner.use(accelerator.unwrap_model(wrapped))
        learner.network.eval()
        try:
            yield
        finally:
            learner.network.train()
            learner.use(wrapped)


def find_learner(name: str, task: str | None = None) -> type[Learner]:
    """The learner of a name, wherever a file of `PACKAGES` defines it.

    Args:
        task: kind of the concepts that it is to be trained on; None: only learners for any kind.

    Raises:
        UserError: there is none; the message lists those that there are.
    """
    known: dict[str, type[Learner]] = {}
    for package in PACKAGES:
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
            importlib.import_module(f"{package}.{module.name}")
        for learner in subclasses(Learner):  # type: ignore[type-abstract]
            if learner.task not in (None, task):
                continue
            if known.setdefault(learner.name, learner) is not learner and learner.name:
                raise ValueError(f"learner {learner.name!r} is defined by {known[learner.name]} and by {learner}")
        if name and name in known:
            return known[name]
    kind = f" for {task}" if task else ""
    raise UserError(f"--learner {name} is not known{kind}; there are {', '.join(sorted(filter(None, known)))}")


def subclasses(parent: type[Learner]) -> Iterator[type[Learner]]:
    """All classes below one, each once."""
    for child in parent.__subclasses__():
        yield child
        yield from subclasses(child)
