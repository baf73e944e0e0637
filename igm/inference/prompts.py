"""The paper's zero-shot method: a concept is a prompt, a picture's classes the prompts that denoise it best together."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import torch

from igm import UserError, warn
from igm.devices import best_device
from igm.hub import is_within_reach
from igm.inference.discrete import Subsets, infer_discrete
from igm.inference.loading import PipelineLoading
from igm.inference.method import Batching, DenoiserMethod, register
from igm.inference.settings import DiscreteSettings
from igm.inference.types import Inferred, Posterior
from igm.models.codec import DEFAULT_MODEL
from igm.models.stable_diffusion import StableDiffusion
from igm.settings import int_range, positive, probability, setting


@dataclass(frozen=True, kw_only=True)
class PromptSettings(DiscreteSettings):
    """Settings of the methods that ask a text-to-image model."""

    title = "igm"
    prompt: tuple[str, ...] = setting(("a photo of a {}",), "several: their predictions averaged", nargs="+")
    num_objects: tuple[int, int] = setting((2, 2), "classes of a picture; a range is inferred", kind=int_range)
    draws_per_round: int = setting(20, "draws between two looks at the confidence", kind=positive)
    confidence: float | None = setting(0.99, "stop drawing when so sure; 1: never stop early", kind=probability)

    def check(self) -> None:
        super().check()
        for template in self.prompt:
            if template.count("{}") != 1 or template.replace("{}", "").count("{"):
                raise UserError(f"--prompt '{template}' must hold {{}} once, where the class goes: 'a photo of a {{}}'")


class PromptMethod(DenoiserMethod):
    """What the methods that ask a pipeline share; `names` are the classes to choose from."""

    task, run, shipped = "classes", "animals", "animals-mini"
    settings_class = PromptSettings
    loading_class = PipelineLoading
    model: StableDiffusion
    settings: PromptSettings

    def __init__(
        self, model: StableDiffusion, settings: PromptSettings, names: Sequence[str] = (), precision: str = "no"
    ):
        super().__init__(model, settings, names)  # its weights have the precision already
        self.prompts = self.encode(self.texts())  # (P, L, D), or (P, T, L, D) for T templates
        self.labels = torch.eye(len(self.names))

    @classmethod
    def default_checkpoint(cls, loading: PipelineLoading) -> str:
        """Stable Diffusion where it is within reach, else the shipped small model; one line says which."""
        return _default_checkpoint(loading.local_files_only)

    @classmethod
    def load(cls, checkpoint: str | Path, loading: Any, device: torch.device, precision: str) -> StableDiffusion:
        """The pipeline."""
        return loading.load(checkpoint, device, precision)

    @classmethod
    def check(cls, settings: PromptSettings, names: Sequence[str]) -> None:
        """Raise UserError where classes and their number do not fit."""
        lowered = [name.lower() for name in names]
        twice = [name for name in names if lowered.count(name.lower()) > 1]
        if twice:
            raise UserError(f"--classes names {twice[0]} twice; name each class once")
        if len(names) < 2:
            raise UserError(f"--classes {' '.join(names)} leaves nothing to choose; name at least two")
        low, high = settings.num_objects
        if high > len(names):
            raise UserError(f"--num_objects {low}-{high} is more than the {len(names)} --classes; lower it")

    @property
    def rows_at_once(self) -> int:
        """What the pipeline's latents leave room for."""
        return self.model.rows_at_once

    def texts(self) -> list[str]:
        """What follows the article of a template, one for each candidate."""
        return list(self.names)

    def encode(self, things: Sequence[str]) -> torch.Tensor:
        """Prompts of all things (P, L, D), or (P, T, L, D) for T templates."""
        tokens = [self.model.encode_prompts([t.format(thing) for thing in things]) for t in self.settings.prompt]
        return tokens[0] if len(tokens) == 1 else torch.stack(tokens, dim=1)

    def count_templates(self, found: Inferred) -> Inferred:
        """The same with every template's rows counted."""
        found.forward = found.forward * len(self.settings.prompt)
        return found


@functools.cache
def _default_checkpoint(local_files_only: bool) -> str:
    if is_within_reach(DEFAULT_MODEL, local_files_only):
        if best_device().type == "cpu":
            warn(f"{DEFAULT_MODEL} takes many minutes per image on a CPU; --checkpoint animals-mini is quick")
        return DEFAULT_MODEL
    print(f"{DEFAULT_MODEL} is not in the local cache and the hub does not answer: running the small animals-mini")
    return "animals-mini"


@register
class PromptSearch(PromptMethod):
    """Subsets of the classes priced by one error matrix."""

    name = "igm"
    about = "the paper's zero-shot search over sets of classes, priced from one error matrix; stops when sure"

    def infer(
        self,
        posterior: Posterior,
        num_concepts: torch.Tensor | None,
        **batching: Unpack[Batching],
    ) -> Inferred:
        """The set of classes with the lowest error, of the sizes that the settings allow."""
        found = infer_discrete(
            self.model,
            posterior,
            self.prompts,
            Subsets(len(self.names), self.settings.num_objects),
            self.settings,
            labels=self.labels,
            **batching,
        )
        return self.count_templates(found)
