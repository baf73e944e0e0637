"""How generated scenes look, and where their files go: as CLEVR's, or as CLEVRTex's."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from igm.data.clevrtex import VARIANTS, scene_of
from igm.data.synthetic import render as rendering
from igm.files import replace_text

COLORS = {
    "gray": (87, 87, 87), "red": (173, 35, 35), "blue": (42, 75, 215), "green": (29, 105, 20),
    "brown": (129, 74, 25), "purple": (129, 38, 192), "cyan": (41, 208, 208), "yellow": (255, 238, 51),
}  # fmt: skip
_ONE, _OTHER = ("gray", "blue", "brown", "yellow"), ("red", "green", "purple", "cyan")
# Colours of each shape in the two conditions of CLEVR-CoGenT (Johnson et al. 2017, section 4.7); spheres have any.
COGENT = {"A": {"cube": _ONE, "cylinder": _OTHER}, "B": {"cube": _OTHER, "cylinder": _ONE}}
SIZES = {"large": 0.7, "small": 0.35}  # CLEVR's
TEX_SIZES = {"large": 0.9, "medium": 0.6, "small": 0.4}  # CLEVRTex's
DEFAULT_SHAPES = ("cube", "sphere", "cylinder")
MATERIALS = ("rubber", "metal")
PER_FOLDER = 1000  # pictures in one folder of CLEVRTex
Entry = dict[str, Any]  # of the JSON


@dataclass(frozen=True)
class Look:
    """What scenes are drawn from; of each tuple an object, or a ground, draws one.

    Args:
        shapes, textures, materials: of objects, names of `render.SHAPES`, `TEXTURES`, `MATERIALS`. grounds: textures of the
            ground, which has two colours of its own unless it is plain. sizes: name -> half the height, in scene units.
        two_colours: a texture's other part has a colour of its own; else it is a darker shade.
        tan_y: tangent of half the view from top to bottom.
        palettes: shape -> the names of COLORS that it has; a shape that is not named has all.

    Raises:
        ValueError: a name that there is not, or none.
    """

    shapes: Sequence[str] = DEFAULT_SHAPES
    textures: Sequence[str] = ("plain",)
    materials: Sequence[str] = MATERIALS
    grounds: Sequence[str] = ("plain",)
    two_colours: bool = False
    sizes: Mapping[str, float] = field(default_factory=lambda: SIZES)
    tan_y: float = rendering.TAN_Y
    palettes: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, values, known in (
            ("shapes", self.shapes, rendering.SHAPES),
            ("textures", self.textures, rendering.TEXTURES),
            ("materials", self.materials, rendering.MATERIALS),
            ("grounds", self.grounds, rendering.TEXTURES),
            *((f"palettes of {shape}", own, COLORS) for shape, own in self.palettes.items()),
        ):
            wrong = [value for value in values if value not in known]
            if wrong or not values:
                raise ValueError(f"{name} must be some of {', '.join(known)}, got {', '.join(wrong) or 'none'}")


TEX_LOOK = Look(
    shapes=(*DEFAULT_SHAPES, "cone", "torus", "capsule"),
    textures=("checker", "stripes", "noise"),
    materials=("rubber", "metal", "matte", "plastic", "lacquer"),
    grounds=("checker", "stripes", "noise"),
    two_colours=True,
    sizes=TEX_SIZES,
    tan_y=rendering.TAN_X * 3 / 4,
)


class ClevrLayout:
    """OUT/images/SPLIT/CLEVR_SPLIT_<index>.png and OUT/scenes/CLEVR_SPLIT_scenes.json, as CLEVR v1.0."""

    split: ClassVar[str] = "val"  # where nobody names one
    resolution: ClassVar[tuple[int, int]] = (128, 128)
    look: ClassVar[Look] = Look()
    has_masks: ClassVar[bool] = False

    def __init__(self, out: str | Path, split: str):
        self.split_name = split
        self.folder, self.scene_file = Path(out) / "images" / split, Path(out) / "scenes" / f"CLEVR_{split}_scenes.json"

    def picture(self, index: int) -> Path:
        """The file of a picture."""
        return self.folder / f"CLEVR_{self.split_name}_{index:06d}.png"

    def save(self, entry: Entry, scene: Mapping[str, Any], pixels: np.ndarray, ids: torch.Tensor | None) -> None:
        """Write a picture (H, W, 3)."""
        write_picture(self.picture(entry["image_index"]), pixels)

    def finish(self, entries: Sequence[Entry]) -> Path:
        """Write the scenes, last of all; return their file."""
        info = {"split": self.split_name, "version": "1.0", "date": "synthetic", "license": "as the generator's"}
        self.scene_file.parent.mkdir(parents=True, exist_ok=True)
        replace_text(self.scene_file, json.dumps({"info": info, "scenes": entries}))
        return self.scene_file


class ClevrTexLayout:
    """OUT/clevrtex_SPLIT/<thousand>/CLEVRTEX_SPLIT_<index>.png, .json and _flat.png (its objects' mask), as CLEVRTex.

    Raises:
        ValueError: SPLIT is no variant of CLEVRTex.
    """

    split: ClassVar[str] = "full"
    resolution: ClassVar[tuple[int, int]] = (320, 240)
    look: ClassVar[Look] = TEX_LOOK
    has_masks: ClassVar[bool] = True

    def __init__(self, out: str | Path, split: str):
        if split not in VARIANTS:
            raise ValueError(f"split must be a variant of CLEVRTex, {', '.join(VARIANTS)}, got {split}")
        self.variant, self.folder = split, Path(out) / f"clevrtex_{split}"

    def picture(self, index: int) -> Path:
        """The file of a picture."""
        return self.folder / str(index // PER_FOLDER) / f"CLEVRTEX_{self.variant}_{index:06d}.png"

    def save(self, entry: Entry, scene: Mapping[str, Any], pixels: np.ndarray, ids: torch.Tensor | None) -> None:
        """Write a picture (H, W, 3), the mask of its objects from ids (H, W), -1 for ground, and then its scene."""
        path = self.picture(entry["image_index"])
        mask = path.with_name(f"{path.stem}_flat.png")
        write_picture(path, pixels)
        if ids is not None:
            write_picture(mask, (ids + 1).numpy().astype(np.uint8))  # 0: ground
        named = {"num_objects": len(entry["objects"]), **entry, "mask_filename": mask.name}
        named["ground_material"] = scene.get("ground", {"texture": "plain"})["texture"]
        objects = zip(entry["objects"], scene["objects"], strict=True)
        named["objects"] = [{**own, "material": material_of(o), "color": rgba(o)} for own, o in objects]
        replace_text(path.with_name(scene_of(path.name)), json.dumps(named))

    def finish(self, entries: Sequence[Entry]) -> Path:
        """The folder; every scene is written already."""
        return self.folder


LAYOUTS: dict[str, type[ClevrLayout] | type[ClevrTexLayout]] = {"clevr": ClevrLayout, "clevrtex": ClevrTexLayout}


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """Write bytes (H, W, 3) or (H, W) as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=1)


def material_of(thing: Mapping[str, Any]) -> str:
    """Texture and material of an object in one name, as CLEVRTex has it."""
    return thing["material"] if thing["texture"] == "plain" else f"{thing['texture']}_{thing['material']}"


def rgba(thing: Mapping[str, Any]) -> list[float]:
    """An object's colour as CLEVRTex writes it."""
    return [round(value, 4) for value in thing["rgb"]] + [1.0]
