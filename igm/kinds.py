"""Kinds of concepts that pictures are asked for: how people say them, their conditions, and which a picture shows."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from igm import UserError
from igm.data.vocabulary import Vocabulary, encode_object, text_of
from igm.encoding import one_hot
from igm.facts import Facts
from igm.matching import BORDER_TOLERANCE, HEADLINE_RADIUS, match_points
from igm.models.denoiser import Denoiser
from igm.models.stable_diffusion import StableDiffusion


@dataclass(frozen=True)
class FoundAgain:
    """How many of the concepts that were asked for a model's own inference finds in what it generated.

    found, of: concepts of all pictures. what: says what was counted. whole: of objects, also with all asked attributes.
    """

    found: int
    of: int
    what: str
    whole: int | None = None

    def __str__(self) -> str:
        words = f"found again: {100 * self.found / self.of:.1f} % of {self.of} {self.what}"
        return words if self.whole is None else f"{words}, {100 * self.whole / self.of:.1f} % with all asked attributes"


class Kind(ABC):
    """A kind of concept that can be asked for.

    Attributes:
        name: the keyword, and the option.
    """

    name: ClassVar[str]

    def read(self, text: str) -> Any:
        """A concept of a word of the command line.

        Raises:
            UserError: it says none.
        """
        return text

    @abstractmethod
    def check(self, concepts: Sequence[Any], facts: Facts) -> None:
        """Raise UserError where a model of these facts does not know a concept."""

    @abstractmethod
    def conds(self, concepts: Sequence[Any], denoiser: Denoiser) -> torch.Tensor:
        """Conditions (K, ...)."""

    @abstractmethod
    def find_again(self, model: Any, pictures: Sequence[Image.Image], concepts: Sequence[Any]) -> FoundAgain | None:
        """Which of the concepts the model, one of `igm.api`, finds in pictures; None where it cannot tell."""


def as_place(place: Any) -> tuple[float, float]:
    """(x, y) in [0, 1] of the picture.

    Raises:
        UserError: it is none.
    """
    try:
        x, y = (float(value) for value in place)
    except (TypeError, ValueError):
        raise UserError(f"position {place!r}: must be x and y in 0 to 1 of the picture, like 0.3,0.7") from None
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise UserError(f"position {x:g},{y:g}: x and y must lie in 0 to 1 of the picture")
    return x, y


def near_pairs(found: Any, asked: Sequence[tuple[float, float]]) -> list[tuple[int, int]]:
    """(found, asked) that are matched within 0.05."""
    rows, cols, distances = match_points(found, asked)
    near = distances <= HEADLINE_RADIUS + BORDER_TOLERANCE
    return list(zip(rows[near].tolist(), cols[near].tolist(), strict=True))


class PositionKind(Kind):
    """(x, y) of an object."""

    name = "positions"

    def read(self, text: str) -> Any:
        """ "0.3,0.7"."""
        return as_place(text.split(","))

    def check(self, concepts: Sequence[Any], facts: Facts) -> None:
        """Places lie in the picture."""
        for place in concepts:
            as_place(place)

    def conds(self, concepts: Sequence[Any], denoiser: Denoiser) -> torch.Tensor:
        """x, y, and zeros, which say that nothing else is known: (K, D)."""
        places = torch.tensor([as_place(place) for place in concepts], dtype=torch.float32)
        return torch.nn.functional.pad(places, (0, denoiser.cond_size - 2))

    def find_again(self, model: Any, pictures: Sequence[Image.Image], concepts: Sequence[Any]) -> FoundAgain | None:
        """Objects within 0.05 of a place, their number given."""
        places = [as_place(place) for place in concepts]
        scenes = model(list(pictures), num_objects=len(places))
        found = sum(len(near_pairs(scene.positions, places)) for scene in scenes)
        return FoundAgain(found, len(places) * len(scenes), "objects within 0.05")


class ObjectKind(Kind):
    """{"position": (x, y), "color": "red", ...}; attributes that are not named are left open."""

    name = "objects"

    def read(self, text: str) -> Any:
        """ "small red cube @0.3,0.7": words, whose attributes `check` finds."""
        words, at, place = text.rpartition("@")
        if not at:
            raise UserError(f"--objects '{text}': say where with @x,y, like 'red cube @0.3,0.7'")
        return {"position": as_place(place.split(",")), "words": tuple(words.split())}

    def check(self, concepts: Sequence[Any], facts: Facts) -> None:
        """Attributes and values are the vocabulary's."""
        for concept in concepts:
            attributes_of(concept, facts.vocabulary or {})

    def conds(self, concepts: Sequence[Any], denoiser: Denoiser) -> torch.Tensor:
        """Places and blocks of attributes (K, D)."""
        vocabulary = denoiser.facts.vocabulary or {}
        own = [attributes_of(concept, vocabulary) for concept in concepts]
        codes = [[v.index(a[n]) if n in a else -1 for n, v in vocabulary.items()] for a in own]
        blocks = encode_object(np.array(codes).reshape(len(own), -1), vocabulary)  # (K, D - 2)
        places = torch.tensor([as_place(concept["position"]) for concept in concepts])
        return torch.cat([places, torch.from_numpy(blocks)], dim=1)

    def find_again(self, model: Any, pictures: Sequence[Image.Image], concepts: Sequence[Any]) -> FoundAgain | None:
        """Objects within 0.05 of a place, their number given, and those whose asked attributes are all right."""
        places = [as_place(concept["position"]) for concept in concepts]
        asked = [attributes_of(concept, model.model.facts.vocabulary) for concept in concepts]
        scenes = model(list(pictures), num_objects=len(places))
        pairs = [
            (scene.objects[i].attributes, asked[j]) for scene in scenes for i, j in near_pairs(scene.positions, places)
        ]
        whole = sum(all(own[name] == value for name, value in wanted.items()) for own, wanted in pairs)
        return FoundAgain(len(pairs), len(places) * len(scenes), "objects within 0.05", whole)


def attributes_of(concept: Any, vocabulary: Vocabulary) -> dict[str, str]:
    """The attributes of an asked object by name; words without a name find theirs.

    Raises:
        UserError: no object, or what the model does not know.
    """
    if not isinstance(concept, Mapping) or "position" not in concept:
        raise UserError(f'object {concept!r}: must be like {{"position": (0.3, 0.7), "color": "red"}}')
    as_place(concept["position"])
    named = [(name, value) for name, value in concept.items() if name not in ("position", "words")]
    owners: dict[str, list[str]] = {}
    for name, values in vocabulary.items():
        for value in values:
            owners.setdefault(value, []).append(name)
    for word in concept.get("words", ()):
        if len(own := owners.get(word, [""])) > 1:
            raise UserError(f"object {word}: may be its {' or its '.join(own)}; say which, in Python")
        named.append((own[0], word))
    found: dict[str, str] = {}
    for name, value in named:
        if value is None:
            continue
        value = text_of(value) or value
        if value not in vocabulary.get(name, ()):
            known = vocabulary.get(name) or (tuple(owners) if not name else tuple(vocabulary))
            raise UserError(
                f"object {f'{name}={value}' if name else value}: the model knows {', '.join(known) or 'places alone'}"
            )
        if name in found:
            raise UserError(f"object {found[name]} {value}: has two values of {name}; say one")
        found[name] = value
    return found


class AttributeKind(Kind):
    """ "Smiling", or "-Male" where it shall not hold; those that are not named are left open."""

    name = "attributes"

    def check(self, concepts: Sequence[Any], facts: Facts) -> None:
        """The model knows each, and each is named once."""
        known = facts.attributes or ()
        names = [str(concept).strip().removeprefix("-") for concept in concepts]
        for name in names:
            if name not in known:
                raise UserError(f"attribute {name}: the model knows {', '.join(known) or 'none'}")
            if names.count(name) > 1:
                raise UserError(f"attribute {name}: is named twice; name it once")

    def conds(self, concepts: Sequence[Any], denoiser: Denoiser) -> torch.Tensor:
        """One-hot rows (K, 2 N) of N attributes."""
        known = list(denoiser.facts.attributes or ())
        rows = [one_hot(torch.full((len(known),), value))[known.index(name)] for name, value in map(signed, concepts)]
        return torch.stack(rows)

    def find_again(self, model: Any, pictures: Sequence[Image.Image], concepts: Sequence[Any]) -> FoundAgain | None:
        """Attributes that are told as asked."""
        answers = model(list(pictures))
        found = sum(
            (name in labels.names) == bool(value) for labels in answers for name, value in map(signed, concepts)
        )
        return FoundAgain(found, len(concepts) * len(answers), "attribute values")


def signed(concept: str) -> tuple[str, int]:
    """Name and value of "Smiling" or "-Male"."""
    name = concept.strip()
    return name.removeprefix("-"), int(not name.startswith("-"))


class PromptKind(Kind):
    """A prompt of a text-to-image model."""

    name = "prompts"

    def check(self, concepts: Sequence[Any], facts: Facts) -> None:
        """Prompts are texts."""
        for prompt in concepts:
            if not isinstance(prompt, str) or not prompt.strip():
                raise UserError(f"prompt {prompt!r}: must be a text")

    def conds(self, concepts: Sequence[Any], denoiser: Denoiser) -> torch.Tensor:
        """Encoded prompts (K, L, D)."""
        if not isinstance(denoiser, StableDiffusion):
            raise UserError("prompts: the model reads no text; name a Stable Diffusion pipeline")
        return denoiser.encode_prompts(list(concepts))

    def find_again(self, model: Any, pictures: Sequence[Image.Image], concepts: Sequence[Any]) -> FoundAgain | None:
        """Classes that the prompts name, one each, chosen among all that the model was trained on."""
        classes = model.model.facts.classes or ()
        named = [[c for c in classes if re.search(rf"\b{re.escape(c)}\b", prompt)] for prompt in concepts]
        asked = {own[0] for own in named if len(own) == 1}
        if len(asked) < len(concepts) or len(classes) < 2:
            return None
        answers = model(list(pictures), classes, num_objects=len(asked))
        found = sum(len(asked & set(labels.names)) for labels in answers)
        return FoundAgain(found, len(asked) * len(answers), f"classes among {len(classes)}")


KINDS: dict[str, Kind] = {kind.name: kind for kind in (PositionKind(), ObjectKind(), AttributeKind(), PromptKind())}
