"""How large objects are in their pictures, and how much of each is hidden, as well as CLEVR's JSON tells.

The JSON has no outlines. An object is taken for a disc of its outline's area: its centre the object's `pixel_coords`, its
radius, in pixels,

    r = s * 35 / 32 * width * h / depth,

where h is the z of `3d_coords`, half the height of what stands on the ground, depth the third of `pixel_coords`, 35 / 32
the focal length of CLEVR's camera in widths of the picture, and s 1 for spheres, 1.25 for cylinders and 1.39 for cubes,
whose outlines are so much larger than a sphere's. So the size is the diameter 2 r, and what is hidden of an object is the
share of its disc that discs of objects nearer to the camera cover. Of 1,126 rendered objects in scenes of 6 to 9 the share
that was really hidden differed from that by 0.012 on average (0.04 where anything was hidden; correlation 0.96). Pixels are
taken to be square, as CLEVR's are.

`lift` goes the other way: it says where in the scene an object of a known height is that stands on the ground. CLEVR moves
its camera by up to 0.5 along each axis from scene to scene, and the JSON does not say whither; the mean camera is taken.
From the true centres in the pictures that gives places within 0.5 of the true ones for 99.7 % of 12,000 objects of the
original generator, within 0.25 for 92 %, within 0.125 for 57 %.
"""

from collections.abc import Sequence

import numpy as np

FOCAL = 35 / 32  # of CLEVR's camera, in widths of the picture
CAMERA = (7.48113, -6.50764, 5.34367)  # mean place of it; it looks at the origin
HEIGHTS = {"large": 0.7, "small": 0.35}  # half the height of CLEVR's objects, by their size
SPREAD = {"cube": 1.39, "cylinder": 1.25}  # outlines of rendered objects: radii of discs of their area, in heights h
ACROSS = 64  # points across a disc at which it is asked whether something stands before it


def diameters(heights: np.ndarray, depths: np.ndarray, shapes: Sequence[str], width: float) -> np.ndarray:
    """Sizes (K,) in pixels of objects in a picture of this width.

    Args:
        heights: (K,) half of theirs, in scene units as the depths (K,). shapes: K names; others count as spheres.
    """
    spread = np.array([SPREAD.get(shape, 1.0) for shape in shapes])
    return 2 * FOCAL * width * spread * heights / depths


def hidden_shares(centres: np.ndarray, sizes: np.ndarray, depths: np.ndarray) -> np.ndarray:
    """What share (K,) of each object's disc nearer discs cover.

    Args:
        centres: (K, 2) in pixels. sizes: (K,) diameters in pixels. depths: (K,) from the camera.
    """
    side = (np.arange(ACROSS) + 0.5) / ACROSS - 0.5
    points = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    points = points[(points**2).sum(1) <= 0.25]  # (N, 2) in a disc of diameter 1
    shares = np.zeros(len(centres))
    for k, (centre, size) in enumerate(zip(centres, sizes, strict=True)):
        nearer = depths < depths[k]
        apart = centre + size * points[:, None] - centres[nearer]  # (N, J, 2)
        covered = (apart**2).sum(2) <= (sizes[nearer] / 2) ** 2  # (N, J)
        shares[k] = covered.any(1).mean()
    return shares


def lift(points: np.ndarray, heights: np.ndarray, width: float, height: float) -> np.ndarray:
    """Places (K, 3) in the scene of objects whose centres are at points (K, 2), in pixels, and this high above the ground.

    Args:
        heights: (K,) z of the centres. width, height: of the picture in pixels.
    """
    eye = np.array(CAMERA)
    forward = -eye / np.linalg.norm(eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    x, y = ((points - np.array([width, height]) / 2) / (FOCAL * width)).T  # tangents of the angles to the axis
    rays = forward + x[:, None] * right - y[:, None] * np.cross(right, forward)  # (K, 3)
    return eye + ((heights - eye[2]) / rays[:, 2])[:, None] * rays
