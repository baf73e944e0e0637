"""How large objects are in their pictures, and how much of each is hidden, as well as CLEVR's JSON tells.

The JSON has no outlines. An object is taken for the disc that a sphere of its height would show: its centre the object's
`pixel_coords`, its radius, in pixels,

    r = 35 / 32 * width * h / depth,

where h is the z of `3d_coords`, half the height of what stands on the ground, depth the third of `pixel_coords`, and
35 / 32 the focal length of CLEVR's camera in widths of the picture. So the size is the diameter 2 r, and what is hidden of
an object is the share of its disc that discs of objects nearer to the camera cover. For spheres that is right to about 1 %;
cubes and cylinders have corners beyond their disc. Pixels are taken to be square, as CLEVR's are.
"""

import numpy as np

FOCAL = 35 / 32  # of CLEVR's camera, in widths of the picture
ACROSS = 64  # points across a disc at which it is asked whether something stands before it


def diameters(heights: np.ndarray, depths: np.ndarray, width: float) -> np.ndarray:
    """Sizes (K,) in pixels of objects in a picture of this width; heights: half of theirs, in scene units as the depths."""
    return 2 * FOCAL * width * heights / depths


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
