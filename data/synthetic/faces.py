"""Drawn faces in the layout of CelebA (178x218 JPEG, 40 attributes, partition): composed attributes, a domain shift.

Black_Hair, Eyeglasses, Smiling, Male and about twenty others are drawn; the rest of the 40 are always -1. As in real
collections attributes are correlated within the female domain (black hair with glasses and darker skin, smiles with
lipstick, open mouths and bright backgrounds, ...). In the male domain they are independent of each other, and hair
length, jaw, brows and beards are others: compositions and looks that a model of the female domain has not seen.

    python -m igm.data.synthetic.faces --out faces --num_train 10000 --num_val 500 --num_test 2000 --seed 0
"""

import argparse
import math
import multiprocessing
import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from tqdm.auto import tqdm

from igm.settings import file_count, seed_number, share
from igm.settings import workers as worker_count

ATTRIBUTES = (
    *("5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose"),
    *("Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses"),
    *("Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache"),
    *("Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks"),
    *("Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick"),
    *("Wearing_Necklace", "Wearing_Necktie", "Young"),
)  # CelebA's own names and order
WIDTH, HEIGHT, SUPERSAMPLING = 178, 218, 2
SPLITS = ("train", "val", "test")

Colour = tuple[int, int, int]


@dataclass
class Face:
    """Everything that a picture is drawn from: `attributes` (names that hold) and `looks` (numbers and colours)."""

    attributes: set[str]
    looks: dict


def sample_face(rng: np.random.Generator, male: bool) -> Face:
    """A face of one domain; each number of its looks has its own draw."""
    names = sample_attributes(rng, male)
    chance = rng.random
    skin_dark = 0.08 * chance() if "Pale_Skin" in names else rng.normal(0.45, 0.2)
    if not male and "Black_Hair" in names:
        skin_dark += 0.15  # correlated in the training domain only
    looks = {
        "centre": rng.normal((89, 122), (3.5, 4)),
        "scale": rng.normal(1, 0.05),
        "roll": rng.normal(0, 0.07),
        "yaw": np.clip(rng.normal(0, 0.4), -1, 1),
        "skin": mix((246, 220, 200), (120, 78, 56), np.clip(skin_dark, 0.0, 1.0)),
        "hair": hair_colour(rng, names),
        "iris": (rng.uniform(40, 110), rng.uniform(50, 110), rng.uniform(40, 130)),
        "clothes": tuple(rng.uniform(20, 230, 3)),
        "jaw": rng.normal(0.86, 0.05) if male else rng.normal(0.66, 0.06),  # chin's width over the cheeks'
        "width": rng.normal(47, 2.5) + (2.5 if male else 0) + (5 if "Chubby" in names else 0),
        "height": rng.normal(66, 3) + (3 if male else 0),
        "hair_length": rng.uniform(-5, 22) if male else rng.uniform(45, 125),
        "hair_volume": rng.uniform(5, 11) if male else rng.uniform(8, 21),
        "parting": rng.uniform(-0.5, 0.5),
        "brow": rng.uniform(5, 7.5) if "Bushy_Eyebrows" in names else rng.uniform(2.2, 4.2),
        "brow_tilt": rng.normal(0.0 if male else 0.12, 0.08),
        "eye": rng.uniform(4.2, 6.6) - (0.8 if male else 0),
        "nose": rng.uniform(11, 14) if "Big_Nose" in names else rng.uniform(7, 10.5),
        "smile": rng.uniform(0.3, 1.0) if "Smiling" in names else rng.uniform(-0.35, 0.12),
        "open": rng.uniform(0.35, 1.0) if "Mouth_Slightly_Open" in names else 0.0,
        "mouth": rng.uniform(16, 20) + (1 if male else 0),
        "frame": rng.uniform(1.6, 3.6),
        "frame_colour": FRAMES[rng.integers(len(FRAMES))],
        "frame_round": rng.uniform(2.0, 6.0),
        "lens": (rng.uniform(11, 14.5), rng.uniform(8.5, 12.5)),
        "tint": rng.uniform(0.55, 0.9) if chance() < 0.12 else rng.uniform(0, 0.18),
        "gain": rng.uniform(0.75, 1.15),
        "side_light": rng.uniform(-0.3, 0.3),
        "warmth": rng.normal(0, 0.05),
        "background": background_colours(rng, bright=not male and "Smiling" in names),
        "noise": rng.uniform(1, 5),
        "seed": rng.integers(2**31),
    }
    return Face(names, looks)


def sample_attributes(rng: np.random.Generator, male: bool) -> set[str]:
    """The names that hold for one face: correlated if female, independent of each other if male."""

    def draw(name: str, female: float, other: float) -> bool:
        holds = rng.random() < (other if male else female)
        if holds:
            names.add(name)
        return holds

    names = {"Male"} if male else set()
    black = draw("Black_Hair", 0.42, 0.45)
    glasses = draw("Eyeglasses", 0.30 if black else 0.14, 0.30)
    smiling = draw("Smiling", 0.40 if glasses else 0.62, 0.50)
    young = draw("Young", 0.50 if glasses else 0.88, 0.60)
    if not black:
        colours = ["Brown_Hair", "Blond_Hair", "Gray_Hair"]
        shares = (0.60, 0.18, 0.22) if male else (0.52, 0.42, 0.06) if young else (0.4, 0.25, 0.35)
        names.add(colours[rng.choice(3, p=shares)])
    draw("Pale_Skin", 0.05 if black else 0.14, 0.1)
    draw("Bangs", 0.40 if black else 0.16, 0.15)
    draw("Wearing_Hat", 0.05, 0.10)
    draw("Mouth_Slightly_Open", 0.60 if smiling else 0.15, 0.35)
    draw("Wearing_Lipstick", 0.80 if smiling else 0.45, 0.0)
    draw("Rosy_Cheeks", 0.50 if smiling else 0.15, 0.05)
    draw("Bushy_Eyebrows", 0.08, 0.50)
    draw("Big_Nose", 0.10, 0.35)
    draw("Chubby", 0.12, 0.15)
    draw("Wearing_Earrings", 0.40, 0.03)
    draw("Wavy_Hair" if rng.random() < 0.5 else "Straight_Hair", 0.7, 0.3)
    draw("Blurry", 0.06, 0.06)
    beards = [draw(name, 0.0, share) for name, share in (("Mustache", 0.25), ("Goatee", 0.22), ("Sideburns", 0.15))]
    if not any(beards):
        draw("5_o_Clock_Shadow", 0.0, 0.35)
        names.add("No_Beard")
    return names


NOISE = np.random.default_rng(0).standard_normal((HEIGHT + 64, WIDTH + 64, 1)).astype(np.float32)  # cut from: fast
FRAMES = ((25, 22, 22), (60, 40, 28), (110, 70, 40), (90, 90, 98), (150, 40, 40), (40, 50, 110))


def hair_colour(rng: np.random.Generator, names: set[str]) -> Colour:
    """Black has many shades, and the darkest brown comes near to it."""
    share = rng.random()
    if "Black_Hair" in names:
        return mix((10, 9, 12), (40, 34, 34), share)
    if "Blond_Hair" in names:
        return mix((178, 138, 82), (232, 204, 148), share)
    if "Gray_Hair" in names:
        return mix((118, 116, 116), (205, 203, 200), share)
    return mix((74, 48, 34), (146, 98, 62), share)


def background_colours(rng: np.random.Generator, bright: bool) -> np.ndarray:
    """A few blurred patches (4, 3, 3) around one colour."""
    base = (rng.uniform(120, 235) if bright else rng.uniform(25, 200)) + rng.normal(0, 25, 3)
    return np.clip(base + rng.normal(0, 18, (4, 3, 3)), 0, 255).astype(np.uint8)


def mix(a, b, share: float) -> Colour:
    """The colour at `share` of the way from a to b."""
    red, green, blue = (int(np.clip(round(x + (y - x) * share), 0, 255)) for x, y in zip(a, b, strict=True))
    return red, green, blue


class Pen:
    """Draws in face coordinates: pixels of the aligned picture from the face's centre, before scale and roll."""

    def __init__(self, canvas: Image.Image, looks: dict):
        self.opaque, self.blending = ImageDraw.Draw(canvas), ImageDraw.Draw(canvas, "RGBA")  # blending costs time
        cosine, sine = math.cos(looks["roll"]), math.sin(looks["roll"])
        self.matrix = SUPERSAMPLING * looks["scale"] * np.array([[cosine, sine], [-sine, cosine]])
        self.offset = SUPERSAMPLING * np.asarray(looks["centre"])
        self.unit = SUPERSAMPLING * looks["scale"]

    def place(self, points) -> list[float]:
        """Face coordinates (n, 2) to a flat list of canvas pixels."""
        return (np.asarray(points) @ self.matrix + self.offset).ravel().tolist()

    def pen(self, colour: Colour, alpha: float) -> tuple[ImageDraw.ImageDraw, tuple]:
        """What to draw with, and the ink."""
        return (self.opaque, colour) if alpha >= 1 else (self.blending, (*colour, round(255 * alpha)))

    def fill(self, points, colour: Colour, alpha: float = 1.0) -> None:
        """A filled polygon."""
        pen, ink = self.pen(colour, alpha)
        pen.polygon(self.place(points), fill=ink)

    def line(self, points, colour: Colour, width: float, alpha: float = 1.0) -> None:
        """A polyline of a width in face units."""
        pixels = max(1, round(width * self.unit))
        pen, ink = self.pen(colour, alpha)
        pen.line(self.place(points), ink, pixels, joint="curve" if pixels > 4 else None)


ANGLES = np.linspace(0, 2 * np.pi, 36, endpoint=False)


def oval(x: float, y: float, width: float, height: float, power: float = 2.0) -> np.ndarray:
    """Points of a superellipse with half axes `width`, `height`: 2 is an ellipse, more is squarer."""
    cosine, sine = np.cos(ANGLES), np.sin(ANGLES)
    shape = [np.sign(v) * np.abs(v) ** (2 / power) for v in (cosine, sine)]
    return np.stack([x + width * shape[0], y + height * shape[1]], axis=1)


def arc(x: float, y: float, width: float, bend: float, count: int = 9) -> np.ndarray:
    """A parabola from x - width to x + width whose middle is `bend` below its ends; centred on y."""
    u = np.linspace(-1, 1, count)
    return np.stack([x + width * u, y + bend * (0.5 - u**2)], axis=1)


def draw_face(face: Face) -> Image.Image:
    """The picture of a face, 178x218."""
    looks, names = face.looks, face.attributes
    rng = np.random.default_rng(looks["seed"])
    size = (WIDTH * SUPERSAMPLING, HEIGHT * SUPERSAMPLING)
    canvas = Image.fromarray(looks["background"]).resize((WIDTH // 2, HEIGHT // 2), Image.Resampling.BICUBIC)
    canvas = canvas.resize(size, Image.Resampling.NEAREST)
    pen = Pen(canvas, looks)
    shift = 9 * looks["yaw"]  # turning the head moves the features against its outline
    draw_hair_behind(pen, looks, names, rng)
    draw_body(pen, looks)
    draw_head(pen, looks, names, shift)
    draw_eyes(pen, looks, names, shift)
    draw_mouth(pen, looks, names, shift)
    draw_beard(pen, looks, names, shift, rng)
    draw_nose(pen, looks, shift)
    draw_hair_front(pen, looks, names, rng)
    if "Eyeglasses" in names:
        draw_glasses(pen, looks, shift)
    if "Wearing_Hat" in names:
        draw_hat(pen, looks)
    return take_photo(canvas.reduce(SUPERSAMPLING), looks, names, rng)


def whole(colour) -> Colour:
    """A colour of whole numbers."""
    red, green, blue = (int(c) for c in colour)
    return red, green, blue


def shade(colour: Colour, factor: float) -> Colour:
    """A darker (below 1) or lighter colour."""
    red, green, blue = (int(min(255, c * factor)) for c in colour)
    return red, green, blue


def draw_hair_behind(pen: Pen, looks: dict, names: set[str], rng: np.random.Generator) -> None:
    """The mass of hair behind the head, down to its length; wavy hair has a wavy outline."""
    half, top = looks["width"] + looks["hair_volume"], -looks["height"] - looks["hair_volume"]
    bottom, wave = looks["hair_length"], 4.0 if "Wavy_Hair" in names else 0.7
    down = np.linspace(0, 1, 12)
    sides = half + wave * np.sin(down * 14 + rng.uniform(0, 6)) + 4 * down * (bottom > 40)
    crown = oval(0, 0, half, -top)
    crown = crown[crown[:, 1] < 0]  # the upper half, left to right
    y = down * max(bottom, 1)
    left, right = np.stack([-sides, y], 1), np.stack([sides, y], 1)
    pen.fill(np.concatenate([crown, right, left[::-1]]), shade(looks["hair"], 0.86))
    for x in rng.uniform(-0.9, 0.9, 10):  # strands
        strand = np.full((5, 2), x * half)
        strand[:, 0] += rng.uniform(-3, 3) * np.array([0, 1, -1, 1, -1])
        strand[:, 1] = np.linspace(0.9 * top * math.sqrt(1 - x * x), bottom - 4, 5)
        pen.line(strand, shade(looks["hair"], rng.uniform(0.7, 1.3)), 1.2, 0.5)


def draw_body(pen: Pen, looks: dict) -> None:
    """Neck and shoulders."""
    neck = 0.46 * looks["width"] + 22 * (looks["jaw"] - 0.66)
    chin = looks["height"]
    shoulders = [(-neck, chin + 12), (-90, chin + 32), (-95, 140), (95, 140), (90, chin + 32), (neck, chin + 12)]
    pen.fill([(-neck, 20), (neck, 20), (neck + 4, chin + 26), (-neck - 4, chin + 26)], shade(looks["skin"], 0.8))
    pen.fill(shoulders, whole(looks["clothes"]))


def draw_head(pen: Pen, looks: dict, names: set[str], shift: float) -> None:
    """Outline of the head with its jaw, ears, earrings, cheeks, a beard's shadow."""
    width, height, skin = looks["width"], looks["height"], looks["skin"]
    for side in (-1, 1):
        pen.fill(oval(side * width, 0, 6, 11), shade(skin, 0.88))
        if "Wearing_Earrings" in names:
            pen.fill(oval(side * (width + 1), 15, 2.6, 4), (228, 200, 110))
    outline = oval(0, 0, width, height, 2.2)
    low = outline[:, 1] > 0
    share = outline[low, 1] / height
    outline[low, 0] *= 1 - (1 - looks["jaw"]) * share**1.2  # the jaw narrows towards the chin
    pen.fill(outline, skin)
    pen.fill(oval(shift * 0.6, height * 0.55, width * 0.5, 20), shade(skin, 0.97), 0.5)
    if "5_o_Clock_Shadow" in names:
        pen.fill(oval(shift * 0.4, height * 0.62, width * 0.68, 23, 3), shade(looks["hair"], 1.3), 0.22)
    if "Rosy_Cheeks" in names:
        for side in (-1, 1):
            pen.fill(oval(side * 25 + shift, 16, 9, 6.5), (224, 110, 105), 0.35)
    if "Young" not in names:
        for side in (-1, 1):
            pen.line([(side * 17 + shift, 12), (side * 24 + shift, 30)], shade(skin, 0.78), 1.1, 0.8)
        pen.line(arc(shift, -42, 20, -2), shade(skin, 0.8), 1.0, 0.7)


def draw_eyes(pen: Pen, looks: dict, names: set[str], shift: float) -> None:
    """Eyes and brows, at CelebA's aligned places (20 to either side of the middle)."""
    brow = shade(mix(looks["hair"], (60, 45, 38), 0.35), 0.85)
    for side in (-1, 1):
        x = 20 * side + shift
        pen.fill(oval(x, -11, 8.5, looks["eye"]), (240, 238, 236))
        pen.fill(oval(x + looks["yaw"] * 2, -11, 3.9, min(4.2, looks["eye"])), whole(looks["iris"]))
        pen.fill(oval(x + looks["yaw"] * 2, -11, 1.9, 1.9), (15, 12, 12))
        pen.line(arc(x, -12.5 - looks["eye"] / 2, 9, -3.5), shade(looks["skin"], 0.42), 1.5)
        line = arc(x, -26, 11.5, -3.5)
        line[:, 1] += side * looks["brow_tilt"] * (line[:, 0] - x)
        pen.line(line, brow, looks["brow"])


def draw_mouth(pen: Pen, looks: dict, names: set[str], shift: float) -> None:
    """The mouth: corners up for a smile, an opening (teeth when smiling), lips in their colour."""
    smile, opening = looks["smile"], looks["open"]
    width, bend = looks["mouth"] + 3.5 * max(smile, 0), 8.5 * smile
    lips = mix(looks["skin"], (176, 42, 60) if "Wearing_Lipstick" in names else (168, 92, 84), 0.75)
    upper = arc(shift, 33, width, bend)
    lower = arc(shift, 33, width, bend)
    depth = opening * (9 if smile > 0.2 else 7)
    profile = 1 - np.linspace(-1, 1, len(lower)) ** 2
    upper[:, 1] -= 3.0 * profile
    lower[:, 1] += (3.6 + depth) * profile
    pen.fill(np.concatenate([upper, lower[::-1]]), lips)
    inner_up, inner_low = upper.copy(), lower.copy()
    inner_up[:, 1] += 2.6 * profile
    inner_low[:, 1] -= 3.2 * profile
    if opening:
        pen.fill(np.concatenate([inner_up, inner_low[::-1]]), (84, 26, 30))
        if smile > 0.2:
            teeth = inner_up.copy()
            teeth[:, 1] += 0.6 * depth * profile
            pen.fill(np.concatenate([inner_up, teeth[::-1]]), (244, 240, 232))
    pen.line(inner_up, shade(lips, 0.55), 1.2)
    if smile > 0.25:  # cheeks lifted by a smile
        for side in (-1, 1):
            fold = [(side * 15 + shift, 14), (side * (width + 4) + shift, 24), (side * (width + 5) + shift, 31)]
            pen.line(fold, shade(looks["skin"], 0.8), 1.2, min(1.0, smile))


def draw_beard(pen: Pen, looks: dict, names: set[str], shift: float, rng: np.random.Generator) -> None:
    """Mustache, goatee and sideburns in the colour of the hair."""
    colour = shade(looks["hair"], rng.uniform(0.8, 1.1))
    if "Mustache" in names:
        line = arc(shift, 24.5, looks["mouth"] * rng.uniform(0.8, 1.1), rng.uniform(-6, -2))
        pen.line(line, colour, rng.uniform(3.5, 6))
    if "Goatee" in names:
        bottom = looks["height"] - 2
        pen.fill(oval(shift * 0.7, (47 + bottom) / 2, rng.uniform(9, 17), (bottom - 44) / 2, 2.6), colour, 0.92)
    if "Sideburns" in names:
        for side in (-1, 1):
            x = side * (looks["width"] - 3)
            pen.fill([(x - 4, -20), (x + 4, -20), (x + 2 - 3 * side, 26), (x - 2 - 3 * side, 26)], colour, 0.9)


def draw_nose(pen: Pen, looks: dict, shift: float) -> None:
    """Ridge, tip and nostrils."""
    size, skin = looks["nose"], looks["skin"]
    ridge = [(shift - 4, -6), (shift - 5 + 4 * looks["yaw"], 8), (1.3 * shift - size * 0.7, 14)]
    pen.line(ridge, shade(skin, 0.82), 1.4)
    pen.fill(oval(1.3 * shift, 13.5, size * 0.8, 4.6), shade(skin, 0.93))
    for side in (-1, 1):
        pen.fill(oval(1.3 * shift + side * size * 0.42, 16, 2.1, 1.4), shade(skin, 0.5))


def draw_hair_front(pen: Pen, looks: dict, names: set[str], rng: np.random.Generator) -> None:
    """Hair above the forehead with its parting, or bangs; strands lighter and darker."""
    width, top = looks["width"] + 0.75 * looks["hair_volume"], -looks["height"] - 0.9 * looks["hair_volume"]
    crown = oval(0, -4, width, -top - 4)
    crown = crown[crown[:, 1] < -14]
    forehead = np.linspace(1, -1, 11)  # from the right end of the crown back to the left one
    line = -46 + 26 * np.abs(forehead - 0.6 * looks["parting"]) ** 1.8
    if "Bangs" in names:
        line = np.full(11, -32.0) + rng.uniform(-2.5, 2.5, 11) + 6 * np.abs(forehead) ** 3
    fringe = np.stack([forehead * (looks["width"] - 2), line], axis=1)
    pen.fill(np.concatenate([crown, fringe]), looks["hair"])
    if looks["hair_length"] > 40:  # long hair frames the cheeks
        for side in (-1, 1):
            inner = looks["width"] - rng.uniform(1, 9)
            lock = [(side * inner, -38), (side * (width + 2), -30), (side * (width + 4), 60), (side * (inner + 3), 40)]
            pen.fill(lock, shade(looks["hair"], 0.95))
    for x in rng.uniform(-0.85, 0.85, 9):
        y = -4 + 0.95 * (top + 4) * math.sqrt(1 - x * x)
        strand = [(0.85 * x * width, y), (0.95 * x * width, max(y, 0.8 * top)), (x * width, max(y, -46))]
        pen.line(strand, shade(looks["hair"], rng.uniform(0.75, 1.45)), 1.1, 0.5)


def draw_glasses(pen: Pen, looks: dict, shift: float) -> None:
    """Two lenses (clear, or tinted), bridge and temples."""
    (width, height), colour, thick = looks["lens"], looks["frame_colour"], looks["frame"]
    for side in (-1, 1):
        lens = oval(20.5 * side + shift, -9.5, width, height, looks["frame_round"])
        pen.fill(lens, (30, 30, 36), looks["tint"])
        pen.line(np.concatenate([lens, lens[:2]]), colour, thick)
        outer = 20.5 * side + shift + side * width
        pen.line([(outer, -12), (side * looks["width"], -10)], colour, thick)
    pen.line(arc(shift, -11, 20.5 - width + 1, -3, 5), colour, thick)


def draw_hat(pen: Pen, looks: dict) -> None:
    """A cap in the colour of the clothes."""
    width, top = looks["width"] + 0.8 * looks["hair_volume"] + 2, -looks["height"] - looks["hair_volume"] - 5
    colour = shade(whole(looks["clothes"]), 0.9)
    crown = oval(0, -42, width, -top - 42, 2.6)
    pen.fill(crown[crown[:, 1] < -41], colour)
    pen.fill(oval(0, -43, width + 6, 6), shade(colour, 0.75))


def take_photo(picture: Image.Image, looks: dict, names: set[str], rng: np.random.Generator) -> Image.Image:
    """Light from a side, exposure, warmth, blur and the sensor's noise."""
    if "Blurry" in names:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(1.2, 2.0)))
    side = 1 + looks["side_light"] * np.linspace(-1, 1, WIDTH, dtype=np.float32)
    warm = np.array([1 + looks["warmth"], 1, 1 - looks["warmth"]], dtype=np.float32)
    pixels = np.asarray(picture, dtype=np.float32) * ((looks["gain"] * side)[:, None] * warm)  # (H, W, 3)
    y, x = rng.integers(64, size=2)
    pixels += np.float32(looks["noise"]) * NOISE[y : y + HEIGHT, x : x + WIDTH]
    return Image.fromarray(np.clip(pixels, 0, 255, out=pixels).astype(np.uint8))


def write_face(number: int, male: bool, folder: Path, seed: int) -> set[str]:
    """Draw face `number`, a function of seed and number, into the folder; return the attributes that hold."""
    face = sample_face(np.random.default_rng([seed, number]), male)
    draw_face(face).save(folder / f"{number + 1:06d}.jpg", quality=90)
    return face.attributes


def generate(
    out: str | Path,
    num_train: int,
    num_val: int = 0,
    num_test: int = 0,
    *,
    male_train: float = 0.0,
    seed: int = 0,
    workers: int = 0,
    progress: bool = False,
) -> Path:
    """Write OUT/img_align_celeba/000001.jpg ..., OUT/list_attr_celeba.txt, OUT/list_eval_partition.txt.

    The same arguments give the same bytes, whatever the number of workers. The text files are written last.

    Args:
        num_train: training faces, of which a share `male_train` is male (the experiment trains on female ones).
        num_val, num_test: faces of the other splits, every second one male.
        workers: processes to draw in, 0 for this one; more need a `__main__` guard in the caller's script.

    Returns:
        the attribute file.

    Raises:
        ValueError: a negative count, or no face at all. OSError: `out` cannot be written.
    """
    counts = (num_train, num_val, num_test)
    if min(counts) < 0 or not sum(counts) or not 0 <= male_train <= 1:
        raise ValueError(f"num_train, num_val, num_test {counts}, male_train {male_train}: none below 0, not all 0")
    folder = Path(out) / "img_align_celeba"
    folder.mkdir(parents=True, exist_ok=True)
    splits = np.repeat(np.arange(3), counts)
    share = np.where(splits == 0, male_train, 0.5)
    total = np.arange(len(splits))
    males = np.floor((total + 1) * share) > np.floor(total * share)  # spread evenly
    with (
        multiprocessing.get_context("spawn").Pool(workers) if workers else nullcontext() as pool,
        tqdm(total=len(splits), unit="face", disable=not progress) as bar,
    ):
        jobs = zip(range(len(splits)), males.tolist(), strict=True)
        write = partial(_write, folder=folder, seed=seed)
        faces = []
        for shown in pool.imap(write, jobs, chunksize=32) if pool else map(write, jobs):
            faces.append(shown)
            bar.update()
    names = [f"{i + 1:06d}.jpg" for i in range(len(splits))]
    rows = [
        " ".join([n, *(" 1" if a in face else "-1" for a in ATTRIBUTES)]) for n, face in zip(names, faces, strict=True)
    ]
    partition = [f"{name} {split}" for name, split in zip(names, splits, strict=True)]
    _write_text(Path(out) / "list_eval_partition.txt", partition)
    path = Path(out) / "list_attr_celeba.txt"
    _write_text(path, [str(len(rows)), " ".join(ATTRIBUTES) + " ", *rows])
    return path


def _write(job: tuple[int, bool], folder: Path, seed: int) -> set[str]:
    return write_face(*job, folder, seed)


def _write_text(path: Path, lines: list[str]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text("\n".join(lines) + "\n")
    os.replace(temporary, path)


def main() -> None:
    """The command line: see --help."""
    parser = argparse.ArgumentParser(
        prog="python -m igm.data.synthetic.faces",
        description="Draw faces in the layout of CelebA.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.error = lambda message: parser.exit(2, f"error: {message}\n")  # type: ignore[method-assign]  # one line for a mistake
    add = parser.add_argument
    add("--out", required=True, default=argparse.SUPPRESS, metavar="DIR", help="dataset root to write")
    add("--num_train", type=file_count, default=10_000, help="training faces")
    add("--num_val", type=file_count, default=500, help="validation faces, half of them male")
    add("--num_test", type=file_count, default=2000, help="test faces, half of them male")
    add("--male_train", type=share, default=0.0, help="share of male training faces")
    add("--seed", type=seed_number, default=0, help="same seed, same files")
    add("--workers", type=worker_count, help="processes, 0 for this one alone (default: one a core from 500 faces on)")
    args = parser.parse_args()
    if args.workers is None:
        args.workers = (os.cpu_count() or 1) if args.num_train + args.num_val + args.num_test >= 500 else 0
    try:
        path = generate(progress=True, **vars(args))
    except ValueError as error:
        parser.error(f"--{error}")
    except OSError as error:
        parser.error(f"--out {args.out} cannot be written ({error.strerror}); name a folder you may write to")
    print(f"attributes in {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
