"""Concepts that are whole objects: where each is, and its attributes (CLEVR: shape, colour, material, size)."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from igm.average_precision import average_precision, in_3d
from igm.calibration.objects import measure_objects
from igm.calibration.settings import CalibrationImages, CalibrationSettings
from igm.data.vocabulary import Vocabulary, blocks, decode_objects, names_of, vocabulary_of
from igm.facts import Facts
from igm.figures.looks import SeenObject, attributes_by_look
from igm.figures.marks import draw_points
from igm.figures.objects import attribute_confusion, label_of, scene_sheet
from igm.inference.types import Inferred
from igm.matching import BORDER_TOLERANCE, HEADLINE_RADIUS, match_points
from igm.models import ModelError
from igm.statistics import ratio, share_interval, with_truth
from igm.tasks import register
from igm.tasks.columns import keys_of, share_cell, share_columns
from igm.tasks.positions import Positions, Scene
from igm.tasks.task import Column, Finding, Groups, Record, Scores, Sheet

DISTANCES = {"inf": np.inf, "0.10": 0.10, "0.05": 0.05, "0.02": 0.02}  # of average precision, in image coordinates
SCENE_DISTANCES = {"inf": np.inf, "1": 1.0, "0.5": 0.5, "0.25": 0.25, "0.125": 0.125}  # the literature's, in the scene


@dataclass
class SceneObject:
    """One object: (x, y) in [0, 1] of the picture, y down; its attributes by name.

    confidence: of its place. shares: how likely each value of each attribute is.
    """

    position: tuple[float, float]
    attributes: dict[str, str | None]
    confidence: float | None
    shares: dict[str, dict[str, float]]

    def likely(self, **attributes: str) -> float:
        """How likely it is that the object has these attributes, each for itself: the product of their shares."""
        return math.prod(self.shares[name][value] for name, value in attributes.items())

    def __getattr__(self, name: str) -> str | None:
        """An attribute, as in `scene.objects[0].color`."""
        if name.startswith("_") or name not in self.attributes:
            raise AttributeError(f"an object has no {name!r}")
        return self.attributes[name]


@dataclass
class ObjectScene(Scene):
    """A scene whose objects are known as a whole: `objects`, in the order of `positions`."""

    objects: list[SceneObject] = field(default_factory=list)

    def parts(self) -> list[dict[str, Any]]:
        """Its objects as `generate` takes them."""
        return [{"position": own.position, **own.attributes} for own in self.objects]

    def draw(self, image: Image.Image | None = None) -> Image.Image:
        """The picture (or another of the same view) with a cross at each position, and what stands there."""
        return draw_points(
            image or self.image, self.positions.tolist(), labels=[label_of(o.attributes) for o in self.objects]
        )

    def to_dict(self) -> dict[str, Any]:
        """All but the picture, as JSON has it."""
        return {**super().to_dict(), "objects": [dataclasses.asdict(own) for own in self.objects]}


def found_objects(record: Mapping[str, Any]) -> list[tuple[int, int]]:
    """The pairs (prediction, true object) of a record's matching that are within 0.05 of each other."""
    rows, cols, distances = match_points(record["conds_pred"], record["conds_true"])
    near = distances <= HEADLINE_RADIUS + BORDER_TOLERANCE
    return list(zip(rows[near].tolist(), cols[near].tolist(), strict=True))


def attributes_right(record: Mapping[str, Any]) -> dict[str, list[bool]]:
    """For every found object, whether each attribute is right; by attribute."""
    pairs = [(record["objects_pred"][i], record["objects_true"][j]) for i, j in found_objects(record)]
    fields = record["objects_true"][0] if record["objects_true"] else ()
    return {field: [pred[field] == true[field] for pred, true in pairs] for field in fields}


def seen_objects(record: Mapping[str, Any]) -> list[SeenObject]:
    """What is known of each true object's look, and whether it was found and read rightly; none without looks."""
    if not record.get("sizes_true"):
        return []
    right: list[dict[str, bool] | None] = [None] * len(record["objects_true"])
    for i, j in found_objects(record):
        pred, true = record["objects_pred"][i], record["objects_true"][j]
        right[j] = {name: pred[name] == true[name] for name in true}
    looks = zip(record["sizes_true"], record["hidden_true"], right, strict=True)
    return [SeenObject(size, hidden, own) for size, hidden, own in looks]


def object_metrics(records: Sequence[Mapping[str, Any]]) -> Scores:
    """Score attributes; see `Objects.score`. Records without true attributes are left out."""
    records = [r for r in with_truth(records) if r.get("objects_true") is not None]
    if not records:
        return {}, {}
    metrics: dict[str, Any] = {"attribute_accuracy": {}}
    ci95: dict[str, Any] = {"attribute_accuracy": {}}
    each = [attributes_right(record) for record in records]
    found = [len(found_objects(record)) for record in records]
    for name in dict.fromkeys(name for own in each for name in own):
        right = [sum(own.get(name, [])) for own in each]
        metrics["attribute_accuracy"][name] = ratio(right, found)
        ci95["attribute_accuracy"][name] = share_interval(right, found)
    whole = [int(np.all(list(own.values()), axis=0).sum()) if own else 0 for own in each]
    metrics["object_accuracy"], ci95["object_accuracy"] = ratio(whole, found), share_interval(whole, found)
    complete = [
        int(right == record["num_true"] == record["num_pred"]) for right, record in zip(whole, records, strict=True)
    ]
    metrics["scene_accuracy"] = ratio(complete, np.ones(len(records)))
    ci95["scene_accuracy"] = share_interval(complete, np.ones(len(records)))
    metrics["average_precision"] = {name: average_precision(records, most) for name, most in DISTANCES.items()}
    lifted = in_3d(records)
    if lifted is not None:
        metrics["average_precision_3d"] = {
            name: average_precision(lifted, most) for name, most in SCENE_DISTANCES.items()
        }
    return metrics, ci95


class Objects(Positions):
    """Where the objects of a scene are, how many, and what each is."""

    name, former_names = "objects", ()
    refines = "positions"
    hub_metrics = ("perception_rate", "attribute_accuracy", "object_accuracy", "scene_accuracy", "average_precision")

    def open(self, facts: Facts, places_only: bool, opener: Callable[..., Any], *place: Any) -> Any:
        """Scenes whose attributes are numbered as the checkpoint does."""
        if places_only or facts.vocabulary is None:
            return opener(*place)
        dataset = opener(*place)
        dataset.speak(facts.vocabulary, "the checkpoint")
        return dataset

    def names(self, dataset: Any) -> tuple[str, ...]:
        """The values of the attributes, as `names_of` a vocabulary."""
        return names_of(getattr(dataset, "vocabulary", {}))

    def cond_size(self, names: Sequence[str]) -> int | None:
        """x, y and every value; any where the images do not say."""
        return 2 + len(names) if names else None

    def check_facts(self, facts: Facts, names: Sequence[str], checkpoint: str) -> None:
        """Raise ModelError where a checkpoint has no vocabulary."""
        if facts.vocabulary is None:
            raise ModelError(f"--checkpoint {checkpoint} does not say which attributes it knows; train it again")

    def conditions(self, conds: torch.Tensor) -> list[list[float]]:
        """The places."""
        return conds[:, :2].tolist()

    def truth(self, conds: torch.Tensor, names: Sequence[str]) -> Record:
        """The true attributes, where the data have them."""
        known = conds.shape[1] > 2
        return {"objects_true": decode_objects(conds, vocabulary_of(names)) if known else None}

    def record(self, found: Inferred, row: int, names: Sequence[str]) -> Record:
        """Also the attributes of each object, and how sure each is."""
        vocabulary, k = vocabulary_of(names), int(found.num_concepts[row])
        objects = decode_objects(found.conds[row, :k], vocabulary)
        sure = [{n: max(own.values()) for n, own in each.items()} for each in shares_of(found, row, vocabulary)]
        return {**super().record(found, row, names), "objects_pred": objects, "attribute_confidence": sure}

    def answer(self, found: Inferred, row: int, names: Sequence[str]) -> ObjectScene:
        """The scene with its objects."""
        scene = super().answer(found, row, names)
        scene.positions = scene.positions[:, :2]
        vocabulary = vocabulary_of(names)
        objects, shares = decode_objects(found.conds[row, : scene.count], vocabulary), shares_of(found, row, vocabulary)
        each = scene.object_confidence if scene.object_confidence is not None else [None] * scene.count
        own = [
            SceneObject((float(x), float(y)), values, None if c is None else float(c), likely)
            for (x, y), values, c, likely in zip(scene.positions, objects, each, shares, strict=True)
        ]
        return ObjectScene(**vars(scene), objects=own)

    def findings(self, record: Record, options: Mapping[str, Any]) -> list[Finding]:
        """The objects with their attributes; older records and those of places alone have none."""
        found = super().findings(record, options)
        return [
            dataclasses.replace(own, names=(label_of(values),), values=values)
            for own, values in zip(found, record["objects_pred"], strict=True)
        ]

    def calibrate(self, denoiser: Any, dataset: Any, settings: CalibrationSettings) -> Facts:
        """As for positions, and the scale of the attributes' confidence."""
        return measure_objects(denoiser, dataset, settings)

    def open_to_calibrate(
        self, kind: Callable[..., Any], images: CalibrationImages, facts: Facts, root: str, counts: tuple[int, int]
    ) -> Any:
        """As for positions, with attributes."""
        return self.open(facts, False, partial(kind, max_images=images.num_images), root, "train", counts)

    def score(self, records: Iterable[Record]) -> Scores:
        """Those of positions, and of objects found within 0.05:

        - attribute_accuracy: share whose attribute is right, by attribute; object_accuracy: share with all right.
        - scene_accuracy: share of images whose number is right, and every object found with all attributes right.
        - average_precision: as `igm.average_precision`, by the largest distance of a hit; average_precision_3d: by
          the literature's distances in the scene, for CLEVR's objects, whose places are lifted from the picture.
        """
        records = list(records)
        metrics, ci95 = super().score(records)
        more, more_ci95 = object_metrics(records)
        return metrics | more, ci95 | more_ci95

    def columns(self, summary: Mapping[str, Any]) -> list[Column]:
        """Those of positions, then a column for each attribute, for whole objects, whole scenes, and average precision."""
        groups = list(summary["groups"].values())
        own = [
            (field, [share_cell(group, "attribute_accuracy", field, interval=False) for group in groups])
            for field in keys_of(groups, "attribute_accuracy")
        ]
        own += share_columns(groups, ["object_accuracy", "scene_accuracy"])
        own += [
            (f"{title} {name}", [share_cell(group, metric, name, interval=False) for group in groups])
            for metric, title in (("average_precision", "AP"), ("average_precision_3d", "AP in 3-D"))
            for name in keys_of(groups, metric)
        ]
        return super().columns(summary) + own

    def draw(self, groups: Groups, sheets: Mapping[str, Sheet], folder: Path, options: Mapping[str, Any]) -> list[Path]:
        """Those of positions, labelled scenes, the attributes' confusion, and how they depend on an object's look."""
        written = super().draw(groups, sheets, folder, options)
        for group, sheet in sheets.items():
            written.append(folder / f"scenes_{group.replace('/', '_')}.png")
            scene_sheet(sheet.images, sheet.records, written[-1])
        scored = [r for records in groups.values() for r in records if r.get("objects_true")]
        pairs = [(r["objects_true"][j], r["objects_pred"][i]) for r in scored for i, j in found_objects(r)]
        if pairs:
            written.append(folder / "attribute_confusion.png")
            attribute_confusion(pairs, written[-1])
        seen = [one for record in scored for one in seen_objects(record)]
        if any(one.right is not None for one in seen):
            written.append(folder / "attributes_by_look.png")
            attributes_by_look(seen, written[-1])
        return written


def shares_of(found: Inferred, row: int, vocabulary: Vocabulary) -> list[dict[str, dict[str, float]]]:
    """How likely each value of each attribute of an image's objects is; empty where nobody asked."""
    if found.marginals is None:
        return [{} for _ in range(int(found.num_concepts[row]))]
    shares = torch.nn.functional.pad(found.marginals[row], (2, 0)).tolist()  # K lists of D
    return [
        {name: dict(zip(vocabulary[name], own[part], strict=True)) for name, part in blocks(vocabulary)}
        for own in shares
    ]


register(Objects())
