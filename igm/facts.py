"""What a checkpoint knows about itself: facts of its training data and of itself that inference uses, in `igm.json`."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from igm.models import ModelError
from igm.models.configs import shown

FACTS_FILE = "igm.json"
VERSION = 2
# Version 1 named the dataset, and the baseline with it: (task, learner).
_FORMER_TASKS = {
    "clevr": ("positions", "compositional"),
    "clevrtex": ("positions", "compositional"),
    "celeba": ("attributes", "compositional"),
    "celeba-gc": ("attributes", "joint_label"),
    "celeba-resnet": ("attributes", "resnet50"),
    "animals": ("classes", "compositional"),
}
_FORMER_NAMES = {"timestep_range": "t_range"}


def _fact(holds: Callable[[Any], bool], words: str, default: Any = None) -> Any:
    return field(default=default, metadata={"holds": holds, "words": words})


def _whole(value: Any, low: int = 0, high: int = 2**31) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _number(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and low <= value <= high


def _text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 4096 and value.isprintable()


def _names(value: Any) -> bool:
    return isinstance(value, tuple) and all(map(_text, value)) and 0 < len(value) == len(set(value))


def _pair(value: Any, holds: Callable[[Any], bool]) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(holds, value)) and value[0] < value[1]


def _box(value: Any) -> bool:
    inside = isinstance(value, tuple) and len(value) == 4 and all(_number(v, 0, 1) for v in value)
    return inside and value[0] < value[2] and value[1] < value[3]


def _vocabulary(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(_text(k) and _names(v) for k, v in value.items())


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a checkpoint; None: nobody measured or said it.

    Args:
        task: what a concept is: the name of a task in `igm.tasks`. learner: how it was trained, one of `igm.training`
            or `igm.baselines`.
        resolution: side in pixels of the training images. codec: folder or hub id of the codec, where the checkpoint
            holds none. pixel_range: what black and white are to the codec.
        t_range: timesteps that tell concepts apart best, [low, high).
        mirrored: whether training saw the mirror image of every picture.
        num_objects, bounds, min_separation: fewest and most objects of a training scene; (left, top, right, bottom) of
            their centres; how near two come in 1 % of the scenes; in [0, 1] image coordinates.
        count_penalty: by how much an object must lower the error to count. confidence_scale, count_scale,
            attribute_scale: which make confidences of objects, counts and objects' attributes the share that is right.
        usual_error: the highest denoising error that its method left in the images that were measured.
        attributes, frequencies: names of the attributes, in the order of the conditions, and how often each holds.
        classes: names of the classes.
        vocabulary: of whole objects: the values of each attribute, in the order of a condition's blocks.
        partner: shipped name, folder or hub id of a checkpoint of the same scenes: of one that draws, that which finds
            things in its pictures; of one that finds, that which draws its scenes.
        own: facts of a task that this package does not know, plain JSON.

    Raises:
        ModelError: a value of a wrong type or out of range.
    """

    task: str | None = _fact(_text, "a name")
    learner: str = _fact(_text, "a name", "compositional")
    resolution: int | None = _fact(lambda v: _whole(v, 1, 2**16), "a whole number in 1 to 65536")
    codec: str | None = _fact(_text, "a folder or a hub id")
    pixel_range: tuple[float, float] = _fact(lambda v: _pair(v, _number), "two rising numbers", (-1.0, 1.0))
    t_range: tuple[int, int] | None = _fact(lambda v: _pair(v, _whole), "two rising whole numbers")
    mirrored: bool | None = _fact(lambda v: isinstance(v, bool), "true or false")
    num_objects: tuple[int, int] | None = _fact(
        lambda v: isinstance(v, tuple) and len(v) == 2 and all(map(_whole, v)) and v[0] <= v[1], "two whole numbers"
    )
    bounds: tuple[float, float, float, float] | None = _fact(_box, "left, top, right, bottom in 0 to 1")
    min_separation: float | None = _fact(lambda v: _number(v, 0, 1), "in 0 to 1")
    count_penalty: float | None = _fact(lambda v: _number(v, 0), "a number of at least 0")
    confidence_scale: float | None = _fact(lambda v: _number(v, 0), "a number of at least 0")
    count_scale: float | None = _fact(lambda v: _number(v, 0), "a number of at least 0")
    attribute_scale: float | None = _fact(lambda v: _number(v, 0), "a number of at least 0")
    usual_error: float | None = _fact(lambda v: _number(v, 0), "a number of at least 0")
    attributes: tuple[str, ...] | None = _fact(_names, "different names")
    frequencies: tuple[float, ...] | None = _fact(
        lambda v: isinstance(v, tuple) and all(_number(share, 0, 1) for share in v), "shares in 0 to 1"
    )
    classes: tuple[str, ...] | None = _fact(_names, "different names")
    vocabulary: Mapping[str, tuple[str, ...]] | None = _fact(_vocabulary, "for each attribute its different values")
    partner: str | None = _fact(_text, "a name")
    own: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for fact in dataclasses.fields(self):
            value = getattr(self, fact.name)
            if isinstance(value, list):
                object.__setattr__(self, fact.name, value := tuple(value))
            if fact.name == "vocabulary" and isinstance(value, Mapping):
                value = {name: tuple(own) if isinstance(own, list) else own for name, own in value.items()}
                object.__setattr__(self, fact.name, value)
            holds = fact.metadata.get("holds")
            if holds and value is not None and not holds(value):
                raise ModelError(f"{fact.name} is {shown(value)}; it must be {fact.metadata['words']}")
        if self.frequencies and len(self.frequencies) != len(self.attributes or ()):
            raise ModelError(f"{len(self.frequencies)} frequencies for {len(self.attributes or ())} attributes")
        if not isinstance(self.own, Mapping):
            raise ModelError(f"own is {shown(self.own)}; it must be a JSON object")

    @property
    def draws(self) -> bool:
        """Whether the checkpoint draws scenes, and no method infers with it."""
        return self.learner == "drawing"

    def known(self) -> dict[str, Any]:
        """The facts that somebody measured or said, by name."""
        return {k: v for f in dataclasses.fields(self) if (v := getattr(self, (k := f.name))) not in (None, {})}

    def to_json(self) -> dict[str, Any]:
        """What `igm.json` holds."""
        plain = {name: list(v) if isinstance(v, tuple) else v for name, v in self.known().items()}
        return {"version": VERSION, **plain}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The facts of an `igm.json` of this or an earlier version.

        Raises:
            ModelError: a later version, an unknown name, or a value out of range.
        """
        values = dict(values)
        version = values.pop("version", 1)
        if not _whole(version, 1) or version > VERSION:
            raise ModelError(f"version is {shown(version)}; this IGM reads up to {VERSION}, update it")
        if version == 1:
            values = _of_version_1(values)
        unknown = sorted(values.keys() - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise ModelError(f"{shown(unknown[0])} is not a fact that a checkpoint can have; take it out")
        return cls(**values)

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """The facts of a checkpoint's folder; none where it has no `igm.json`, as those of the published code.

        Raises:
            ModelError: the file cannot be used; one line that names it.
        """
        file = Path(folder) / FACTS_FILE
        if not file.is_file():
            return cls()
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(values, dict):
                raise ModelError("it is not a JSON object")
            return cls.from_json(values)
        except ModelError as error:
            raise ModelError(f"{file}: {error}") from None
        except (ValueError, RecursionError, OSError):
            raise ModelError(f"{file} is not JSON; take the file of the checkpoint's author") from None


def _of_version_1(values: dict[str, Any]) -> dict[str, Any]:
    values = {_FORMER_NAMES.get(name, name): value for name, value in values.items()}
    if (task := values.get("task")) is not None:
        if not isinstance(task, str) or task not in _FORMER_TASKS:
            raise ModelError(f"task is {shown(task)}; known are {', '.join(_FORMER_TASKS)}")
        values["task"], values["learner"] = _FORMER_TASKS[task]
    return values
