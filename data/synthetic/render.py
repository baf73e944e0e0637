"""Batched ray casting of CLEVR-like scenes on the CPU: shapes on a lit grey ground, seen by CLEVR's camera.

Every shape is a signed distance function and is found by sphere tracing inside its own window of the screen.
The light is CLEVR's: three area lamps and a uniform sky. Vectors are stored component first, (3, N), and all
arithmetic is element by element without transcendental functions, so an image does not depend on its batch.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Tangent of half the view: CLEVR's 35 mm lens on a 32 mm sensor, pictures 3:2.
TAN_X = 16 / 35
TAN_Y = TAN_X * 2 / 3

# Lamps of CLEVR's base scene (key, fill, back), aimed at the origin. The powers (RGB, as seen on the ground) and the
# sky's light on the ground were fitted to the median of 1,500 pictures of the CLEVR generator made linear: 0.9 of 255
# grey levels mean error over the whole ground. The sky is 2% above the fit, as the median has shadows in it.
LAMP_POSITION = ((6.447, -2.905, 4.258), (-4.671, -4.014, 3.011), (-1.169, 2.646, 5.816))
LAMP_POWER = ((5.30, 4.98, 4.23), (1.10, 1.18, 1.50), (2.07, 2.07, 1.98))
LAMP_RADIUS = (0.5, 0.5, 0.5)  # scene units, sets how soft shadows are
GROUND_SKY = 0.137
GROUND_ALBEDO = 0.80  # from the brightness of rubber objects
SKY_TAKEN = 0.35  # share of the sky's light an object hides from points it touches
SKY_MIRRORED = 0.06  # what metal shows of the zenith, darker than the light it gives
METAL_MIRROR, METAL_DIFFUSE, METAL_GLOSS = 0.92, 0.07, 28.0  # of mirrored, diffuse and lamp light
RUBBER_GLOSS = 0.06  # as all of these, matched by eye and by mean brightness of 120 scenes
# name -> (wide and sharp highlights of diffuse materials, share of light mirrored by a clear coat). The last three are not
# CLEVR's; metal has its own formula.
MATERIALS = {
    "rubber": (RUBBER_GLOSS, 0.0, 0.0),
    "metal": (0.0, 0.0, 0.0),
    "matte": (0.0, 0.0, 0.0),
    "plastic": (0.04, 9.0, 0.0),
    "lacquer": (0.0, 14.0, 0.2),
}

METAL = list(MATERIALS).index("metal")

Pixels = tuple[Tensor, Tensor, Tensor]  # numbers of image, row and column
GROUND_STEP = 2e-3  # half a grey level
HIT = 4e-3  # distance that counts as a hit, in units of the object's size


def _length(first: Tensor, *others: Tensor) -> Tensor:
    return sum((c * c for c in others), first * first).sqrt()


def _sphere(p: Tensor) -> Tensor:
    return _length(*p) - 1


def _cube(p: Tensor, bevel: float = 0.14) -> Tensor:
    q = p.abs() - (1 - bevel)
    inside = torch.maximum(torch.maximum(q[0], q[1]), q[2]).clamp(max=0)
    return _length(*q.clamp(min=0)) + inside - bevel


def _cylinder(p: Tensor, bevel: float = 0.08) -> Tensor:
    radial, axial = _length(p[0], p[1]) - (1 - bevel), p[2].abs() - (1 - bevel)
    inside = torch.maximum(radial, axial).clamp(max=0)
    return _length(radial.clamp(min=0), axial.clamp(min=0)) + inside - bevel


def _cone(p: Tensor) -> Tensor:
    slope = (2 * _length(p[0], p[1]) + p[2] - 1) / 5**0.5  # apex at z = 1, base of radius 1 at z = -1
    return torch.maximum(slope, -1 - p[2])


def _torus(p: Tensor) -> Tensor:
    return _length(_length(p[0], p[2]) - 0.7, p[1]) - 0.3  # standing on its edge


def _capsule(p: Tensor) -> Tensor:
    return _length(p[0], p[1], p[2] - p[2].clamp(-0.5, 0.5)) - 0.5  # upright


# name -> (signed distance for size 1, radius of the bounding sphere, steps of sphere tracing it needs).
# All shapes rest on the ground when their centre is as high as their size.
SHAPES = {
    "cube": (_cube, 3**0.5, 12),
    "sphere": (_sphere, 1.0, 0),  # its own bounding sphere
    "cylinder": (_cylinder, 2**0.5, 16),
    "cone": (_cone, 2**0.5, 24),
    "torus": (_torus, 1.0, 24),
    "capsule": (_capsule, 1.0, 16),
}
TEXTURES = ("plain", "checker", "stripes", "noise")


@dataclass
class Ground:
    """What the ground of B scenes looks like.

    texture: (B,) index into TEXTURES. turn: (2, B) cosine and sine of the pattern's rotation. scale: (B,) cells per scene
    unit. colours: (2, 3, B) factors on the ground's light, of the pattern's two parts.
    """

    texture: Tensor
    turn: Tensor
    scale: Tensor
    colours: Tensor


@dataclass
class Batch:
    """B scenes with M objects in all, as tensors; K is the largest number of objects of one scene."""

    eye: Tensor  # (3, B) camera position, scene units
    axes: Tensor  # (3, 3, B) camera right, up, forward; the second axis is x, y, z
    lamps: Tensor  # (3, 3, B) positions of key, fill, back
    position: Tensor  # (3, M) centres
    size: Tensor  # (M,)
    turn: Tensor  # (2, M) cosine and sine of the rotation about z
    shape: Tensor  # (M,) index into SHAPES
    texture: Tensor  # (M,) index into TEXTURES
    material: Tensor  # (M,) index into MATERIALS
    albedo: Tensor  # (3, M) linear colour
    fading: Tensor  # (3, M) by what share the texture's other part is darker (below 0: lighter)
    image: Tensor  # (M,) scene of each object
    slots: Tensor  # (B, K) objects of each scene, -1 where there are fewer
    ground: Ground | None = None  # None: plain grey, CLEVR's
    tan_y: float = TAN_Y  # tangent of half the view from top to bottom


def _dot(a: Tensor, b: Tensor) -> Tensor:
    (ax, ay, az), (bx, by, bz) = a.unbind(), b.unbind()
    return ax * bx + ay * by + az * bz


def _to_object(batch: Batch, obj: Tensor, v: Tensor) -> Tensor:
    """Turn vectors v (3, N) into the axes of objects obj (N,), in units of the object's size."""
    cos, sin = batch.turn[:, obj]
    return torch.stack([cos * v[0] + sin * v[1], cos * v[1] - sin * v[0], v[2]]) / batch.size[obj]  # (3, N)


def _distance(batch: Batch, obj: Tensor, p: Tensor) -> Tensor:
    """Signed distance (N,) of points p (3, N), given in object axes, to objects obj (N,)."""
    out = torch.empty_like(p[0])
    for index, (sdf, *_) in enumerate(SHAPES.values()):
        members = (batch.shape[obj] == index).nonzero()[:, 0]
        if len(members):
            out[members] = sdf(p[:, members])
    return out


def _bound(batch: Batch) -> Tensor:
    """Radius (M,) of the objects' bounding spheres, scene units."""
    return torch.tensor([radius for _, radius, _ in SHAPES.values()])[batch.shape] * batch.size


def _cube_chord(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays o + t * d, (3, N) in object axes, enter and leave the bounding cube; enter > leave if they miss."""
    d = torch.where(d.abs() < 1e-6, 1e-6, d)
    one, two = (-1 - o) / d, (1 - o) / d
    return torch.minimum(one, two).amax(0), torch.maximum(one, two).amin(0)


def trace(batch: Batch, to_centre: Tensor, direction: Tensor, obj: Tensor) -> Tensor:
    """Meet rays with one object each by sphere tracing.

    Args:
        to_centre: (3, N) from the origins of the rays to the centres of their objects, scene units.
        direction: (3, N); need not have length 1.
        obj: (N,) the object each ray is tested against.

    Returns:
        (N,) the first t > 0 with origin + t * direction on the object, inf where there is none.
    """
    found = torch.full_like(direction[0], float("inf"))
    square = _dot(direction, direction)
    middle = _dot(to_centre, direction) / square
    gap = _dot(to_centre, to_centre) - middle * middle * square - _bound(batch)[obj].square()
    exit_t = middle + (-gap.clamp(max=0) / square).sqrt()
    ray = ((gap <= 0) & (exit_t > 0)).nonzero()[:, 0]  # (n,) rays that enter the bounding sphere
    for index, (sdf, _, steps) in enumerate(SHAPES.values()):
        part = ray[batch.shape[obj[ray]] == index]
        if not len(part):
            continue
        o = _to_object(batch, obj[part], -to_centre[:, part])
        d = _to_object(batch, obj[part], direction[:, part])
        speed, last = _dot(d, d).sqrt(), exit_t[part]
        # From the bounding cube on, so that rays along a face need few steps.
        t = torch.maximum(2 * middle[part] - last, _cube_chord(o, d)[0]).clamp(min=0)
        for _ in range(steps):
            distance = sdf(o + t * d)
            t = torch.minimum(t + distance / speed, last)
        found[part] = torch.where(sdf(o + t * d) < HIT, t, float("inf"))
    return found


def nearest(t: Tensor, ray: Tensor, num_rays: int) -> Tensor:
    """Indices of the tests, with distances t (N,) and rays ray (N,), that are the first hit of their ray."""
    first = torch.full((num_rays,), float("inf")).scatter_reduce(0, ray, t, "amin")
    return ((t == first[ray]) & t.isfinite()).nonzero()[:, 0]


def camera_rays(batch: Batch, image: Tensor, row: Tensor, column: Tensor, width: int, height: int) -> Tensor:
    """Directions (3, ...) of camera depth 1 through the centres of pixels (row, column) of images."""
    x = ((column + 0.5) * (2 / width) - 1) * TAN_X
    y = (1 - (row + 0.5) * (2 / height)) * batch.tan_y
    right, up, forward = batch.axes[:, :, image]
    return forward + x * right + y * up


def project(batch: Batch, point: Tensor, image: Tensor) -> Tensor:
    """Project points (3, N) of scenes image (N,): (3, N) with x, y in [0, 1] from the top left, and camera depth."""
    offset = point - batch.eye[:, image]
    right, up, depth = (_dot(axis[:, image], offset) for axis in batch.axes)
    return torch.stack([0.5 + right / depth / (2 * TAN_X), 0.5 - up / depth / (2 * batch.tan_y), depth])


def _windows(batch: Batch, width: int, height: int) -> tuple[Tensor, Tensor, Tensor]:
    """What to test: rows, columns and objects (N,), the pixels in the screen box of each object's bounding sphere."""
    offset = batch.position - batch.eye[:, batch.image]
    right, up, depth = (_dot(axis[:, batch.image], offset) for axis in batch.axes)
    radius = _bound(batch)
    box = []
    for along, tan, count in ((right, TAN_X, width), (-up, batch.tan_y, height)):
        # Exact limits of a sphere's projection along one axis.
        root = radius * (along**2 + depth**2 - radius**2).sqrt()
        limits = (torch.stack([along * depth - root, along * depth + root]) / (depth**2 - radius**2)) / tan
        low, high = ((limits + 1) * (count / 2)).floor().long().clamp(0, count - 1)
        box.append((low, high - low + 1))
    (left, across), (top, down) = box
    area = across * down
    obj = torch.arange(len(area)).repeat_interleave(area)  # (N,)
    inside = torch.arange(len(obj)) - (area.cumsum(0) - area)[obj]
    row = inside // across[obj]
    return top[obj] + row, left[obj] + inside - row * across[obj], obj


def buffers(batch: Batch, width: int, height: int) -> tuple[Tensor, Tensor]:
    """What each pixel centre shows: objects (B, height, width), -1 for ground, and their camera depth."""
    row, column, obj = _windows(batch, width, height)
    image = batch.image[obj]
    to_centre = (batch.position - batch.eye[:, batch.image])[:, obj]
    t = trace(batch, to_centre, camera_rays(batch, image, row, column, width, height), obj)
    shape = (batch.eye.shape[1], height, width)
    pixel = (image * height + row) * width + column
    seen = nearest(t, pixel, math.prod(shape))
    objects, depths = torch.full((math.prod(shape),), -1), torch.zeros(math.prod(shape))
    objects[pixel[seen]], depths[pixel[seen]] = obj[seen], t[seen]
    return objects.view(shape), depths.view(shape)


@torch.inference_mode()
def id_buffer(batch: Batch, width: int, height: int) -> Tensor:
    """Which object each pixel centre shows: (B, height, width), the object's place in its scene or -1 for ground."""
    objects, _ = buffers(batch, width, height)
    return torch.where(objects < 0, -1, objects - batch.slots[:, 0][:, None, None])  # numbered in a row per scene


def _lamp_directions(batch: Batch, point: Tensor, image: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Unit vectors (3, N) and distances (N,) from points to each lamp, and the tangents of the lamp's radius (N,)."""
    out = []
    for lamp, radius in zip(batch.lamps, LAMP_RADIUS, strict=True):
        offset = lamp[:, image] - point
        distance = _dot(offset, offset).sqrt()
        out.append((offset / distance, distance, radius / distance))
    return out


def _lit(batch: Batch, point: Tensor, normal: Tensor, image: Tensor, own: Tensor, lamps: list) -> tuple[list, Tensor]:
    """Shares of each lamp [(N,)] and of the sky (N,) that points see past the scene's objects, `own` excepted."""
    shares, sky = [torch.ones_like(point[0]) for _ in lamps], torch.ones_like(point[0])
    bound, tests = _bound(batch), []
    for slot in batch.slots.T:
        obj = slot[image]
        other = (obj >= 0) & (obj != own)
        centre, size = batch.position[:, obj], batch.size[obj]
        offset = centre - point
        square = _dot(offset, offset)
        # Light from the sky that a sphere of the object's size takes away.
        taken = _dot(normal, offset).clamp(min=0) * size.square() / (square * square.sqrt())
        sky = sky * (1 - taken.clamp(max=1) * (SKY_TAKEN * other))
        for lamp, share, (direction, distance, spread) in zip(batch.lamps, shares, lamps, strict=True):
            # Law of cosines in the triangle of point, lamp and centre: how far along the ray the object is.
            between = lamp[:, image] - centre
            along = (square - _dot(between, between) + distance * distance) / (2 * distance)
            reach = bound[obj] + along.clamp(min=0) * spread
            near = (other & (square < along * along + reach * reach)).nonzero(as_tuple=True)
            ray = (obj.expand_as(sky)[near], -offset[:, *near], direction[:, *near], spread[near])
            tests.append((share, near, ray))
    # One call for all objects and lamps: the tests are many and small.
    past = _past(batch, *(torch.cat(part, dim=-1) for part in zip(*(ray for _, _, ray in tests), strict=True)))
    for (share, near, _), seen in zip(tests, past.split([len(ray[0]) for *_, ray in tests]), strict=True):
        share[near] *= seen
    return shares, sky


def _past(batch: Batch, obj: Tensor, origin: Tensor, direction: Tensor, spread: Tensor) -> Tensor:
    """Share (N,) of a lamp's disc seen past one object, from how near the central ray comes to its surface."""
    o, d = _to_object(batch, obj, origin), _to_object(batch, obj, direction)
    enter, leave = _cube_chord(o, d)
    t = ((enter + leave) / 2).clamp(min=1e-3)  # middle of the chord through the bounding cube
    depth = -_distance(batch, obj, o + t * d) * batch.size[obj] / (t * spread + 1e-3)
    x = (0.5 - 0.5 * depth).clamp(0, 1)
    return x * x * (3 - 2 * x)


def _diffuse(batch: Batch, point: Tensor, normal: Tensor, image: Tensor, own: Tensor, lamps: list) -> tuple:
    """Light (3, N) a surface of the ground's albedo sends out at points, and the lamps' visible shares [(N,)]."""
    shares, sky = _lit(batch, point, normal, image, own, lamps)
    # A surface turned to the ground gets the ground's light in place of the sky's; the two are alike.
    light = (GROUND_SKY * sky).expand_as(point).clone()
    for lamp, power, share, (direction, distance, _) in zip(batch.lamps, LAMP_POWER, shares, lamps, strict=True):
        aim = (lamp / _dot(lamp, lamp).sqrt())[:, image]
        facing = _dot(normal, direction).clamp(min=0) * _dot(aim, direction).clamp(min=0)
        facing = share * facing / distance.square()
        for channel, p in zip(light, power, strict=True):
            channel += p * facing
    return light, shares


def _ground(batch: Batch, point: Tensor, image: Tensor) -> Tensor:
    """Light (3, N) from ground points."""
    up = torch.tensor([0.0, 0.0, 1.0]).view(3, *[1] * image.ndim)
    return _diffuse(batch, point, up, image, torch.tensor(-2), _lamp_directions(batch, point, image))[0]


def _normals(batch: Batch, obj: Tensor, point: Tensor, eps: float = 0.05) -> tuple[Tensor, Tensor]:
    """Outward unit normals (3, N) in the scene and the points in object axes (3, N)."""
    p = _to_object(batch, obj, point - batch.position[:, obj])
    grad = torch.zeros_like(p)
    for corner in ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)):  # tetrahedral differences
        step = torch.tensor(corner)[:, None]
        grad += step * _distance(batch, obj, p + eps * step)
    grad = grad / _dot(grad, grad).sqrt().clamp(min=1e-12)
    cos, sin = batch.turn[:, obj]
    return torch.stack([cos * grad[0] - sin * grad[1], sin * grad[0] + cos * grad[1], grad[2]]), p


def _value_noise(p: Tensor) -> Tensor:
    """Smooth noise (N,) in [0, 1] of points (3, N), from hashed lattice values."""
    cell = p.floor()
    f = p - cell
    f = f * f * (3 - 2 * f)
    total = torch.zeros_like(p[0])
    for corner in range(8):
        bits = [corner >> axis & 1 for axis in range(3)]
        x, y, z = (cell[axis].long() + bits[axis] for axis in range(3))
        key = (x * 73856093 ^ y * 19349663 ^ z * 83492791) & 0xFFFF
        key = (key * key * 15731 + key * 789221) >> 3 & 0xFFFF
        parts = [f[axis] if bits[axis] else 1 - f[axis] for axis in range(3)]
        weight = parts[0] * parts[1] * parts[2]
        total += weight * (key.float() / 0xFFFF)
    return total


def _pattern(texture: Tensor, p: Tensor) -> Tensor:
    """How much (N,) of a texture's other part shows at points p (3, N) in object axes, by texture (N,)."""
    q = p * 2 + 0.13  # off the symmetry planes, where flat faces would flicker between two squares
    checker = q.floor().sum(0) % 2
    stripes = (q[2] * 1.25).floor() % 2
    options = [torch.zeros_like(checker), checker, stripes]
    factor = torch.stack(options)[texture.clamp(max=2), torch.arange(len(texture))]
    noisy = (texture == TEXTURES.index("noise")).nonzero()[:, 0]
    factor[noisy] = ((_value_noise(p[:, noisy] * 3 + 7) - 0.3) * 2.5).clamp(0, 1)
    return factor


def _ground_pattern(batch: Batch, point: Tensor, image: Tensor) -> Tensor | float:
    """Factor (3, ...) on the ground's light at points (3, ...) of it, by image (...)."""
    ground = batch.ground
    if ground is None:
        return 1.0
    cos, sin = ground.turn[:, image]
    x, y = ((cos * point[0] + sin * point[1]), (cos * point[1] - sin * point[0]))
    x, y = x * ground.scale[image], y * ground.scale[image]
    cells = torch.stack([x, y, torch.zeros_like(x)]).flatten(1)  # (3, N)
    coarse, fine = (_value_noise(cells * factor + 11) for factor in (0.7, 2.9))
    noise = ((0.65 * coarse + 0.35 * fine - 0.3) * 2.5).clamp(0, 1).view_as(x)
    options = [torch.zeros_like(x), (x.floor() + y.floor()) % 2, x.floor() % 2, noise]
    other = torch.zeros_like(x)
    texture = ground.texture[image].expand_as(x)
    for index, option in enumerate(options):
        other = torch.where(texture == index, option, other)
    one, two = ground.colours[:, :, image]  # (3, ...) each
    return one + (two - one) * other


def _mirrored(batch: Batch, point: Tensor, direction: Tensor, image: Tensor, own: Tensor) -> Tensor:
    """Light (3, N) that arrives at points of objects `own` from a direction: sky, ground, or other objects."""
    steep = (-direction[2]).clamp(min=0.02)
    below = point + direction * (point[2].clamp(min=0) / steep)
    ground = _ground(batch, below, image) * _ground_pattern(batch, below, image)
    x = (0.4 - 1.3 * direction[2]).clamp(0, 1)  # the ground's light fades into the dark zenith, as in CLEVR's metal
    light = SKY_MIRRORED + (ground - SKY_MIRRORED) * (x * x * (3 - 2 * x))
    ray = torch.arange(len(own)).repeat(batch.slots.shape[1])
    obj = batch.slots.T[:, image].flatten()
    ray, obj = ray[(obj >= 0) & (obj != own[ray])], obj[(obj >= 0) & (obj != own[ray])]
    t = trace(batch, batch.position[:, obj] - point[:, ray], direction[:, ray], obj)
    hit = nearest(t, ray, len(own))
    ray, obj = ray[hit], obj[hit]
    spot = point[:, ray] + t[hit] * direction[:, ray]
    normal, _ = _normals(batch, obj, spot)
    lamps = _lamp_directions(batch, spot, image[ray])
    light[:, ray] = _diffuse(batch, spot, normal, image[ray], obj, lamps)[0] * batch.albedo[:, obj] / GROUND_ALBEDO
    return light


def _squared(x: Tensor, times: int) -> Tensor:
    for _ in range(times):
        x = x * x
    return x


def _objects(batch: Batch, obj: Tensor, point: Tensor, view: Tensor) -> Tensor:
    """Light (3, N) sent to the camera by object points (3, N) seen along unit directions view (3, N)."""
    image = batch.image[obj]
    normal, local = _normals(batch, obj, point)
    lamps = _lamp_directions(batch, point, image)
    light, shares = _diffuse(batch, point, normal, image, obj, lamps)
    albedo = batch.albedo[:, obj] * (1 - batch.fading[:, obj] * _pattern(batch.texture[obj], local))
    out = albedo / GROUND_ALBEDO * light
    bounce = view - 2 * _dot(view, normal) * normal
    material = batch.material[obj]
    wide_gloss, sharp_gloss, coat = torch.tensor(list(MATERIALS.values()))[material].T  # (N,) each
    metal = material == METAL
    m = metal.nonzero()[:, 0]
    shine = _mirrored(batch, point[:, m], bounce[:, m], image[m], obj[m])
    out[:, m] = albedo[:, m] * (METAL_MIRROR * shine + METAL_DIFFUSE / GROUND_ALBEDO * light[:, m])
    c = (coat > 0).nonzero()[:, 0]
    if len(c):
        shine = _mirrored(batch, point[:, c], bounce[:, c], image[c], obj[c])
        out[:, c] += coat[c] * (shine - out[:, c])
    for power, share, (direction, distance, _) in zip(LAMP_POWER, shares, lamps, strict=True):
        wide = _squared(_dot(bounce, direction).clamp(min=0), 3)  # 8th power
        sharp = _squared(wide, 3)  # 64th
        plain = wide_gloss * wide + sharp_gloss * sharp
        gloss = torch.where(metal, METAL_GLOSS * sharp * (0.08 + 0.92 * albedo), plain)
        out += torch.tensor(power)[:, None] * (gloss * share / distance.square())
    return out


def _encode(light: Tensor) -> Tensor:
    """sRGB bytes of linear light, by table: a power function may differ in its last bit from batch to batch."""
    x = torch.linspace(0, 1, 16384, dtype=torch.float64)
    table = torch.where(x < 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
    return (table * 255).round().to(torch.uint8)[(light.clamp(0, 1) * 16383).round().long()]


def _ground_light(batch: Batch, where: Pixels, width: int, height: int) -> Tensor:
    """Light (3, ...) of the ground seen at pixels where = (image, row, column)."""
    rays, eye = camera_rays(batch, *where, width, height), batch.eye[:, where[0]]
    return _ground(batch, eye - rays * (eye[2] / rays[2]), where[0])


def _doubled(x: Tensor, dim: int) -> Tensor:
    """Linear interpolation to twice the samples along one dimension."""
    last = x.shape[dim] - 1
    index = torch.arange(last + 1)
    before, after = x.index_select(dim, (index - 1).clamp(min=0)), x.index_select(dim, (index + 1).clamp(max=last))
    pair = torch.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], dim=dim + 1)
    return pair.flatten(dim, dim + 1)


def _ground_picture(batch: Batch, covered: Tensor) -> Tensor:
    """Light (3, B, height, width) of the ground; where objects have `covered` (B, height, width) it, coarse.

    Shaded at half the resolution and again at full resolution where that is too coarse, at the edges of shadows.
    """
    count, height, width = covered.shape
    images, rows, columns = (torch.arange(n) for n in (count, height // 2, width // 2))
    where = images[:, None, None], rows[:, None], columns
    coarse = _ground_light(batch, where, width // 2, height // 2)  # (3, B, height / 2, width / 2)
    picture = _doubled(_doubled(coarse, 2), 3)
    step = (picture[1] - coarse[1].repeat_interleave(2, 1).repeat_interleave(2, 2)).abs()
    image, row, column = ((step > GROUND_STEP) & ~covered).nonzero(as_tuple=True)
    picture[:, image, row, column] = _ground_light(batch, (image, row, column), width, height)
    return picture


def _ground_colour(batch: Batch, width: int, height: int) -> Tensor | float:
    """Factor (3, B, height, width) on the ground's light, the mean of 2 x 2 samples a pixel."""
    if batch.ground is None:
        return 1.0
    images, rows, columns = (torch.arange(n) for n in (batch.eye.shape[1], 2 * height, 2 * width))
    where = images[:, None, None], rows[:, None], columns
    rays, eye = camera_rays(batch, *where, 2 * width, 2 * height), batch.eye[:, where[0]]
    point = eye - rays * (eye[2] / rays[2])  # (3, B, 2 height, 2 width)
    one, two, three, four = _corners(torch.as_tensor(_ground_pattern(batch, point, where[0].expand(point.shape[1:]))))
    return (one + two + three + four) / 4


def _seen_light(batch: Batch, objects: Tensor, depths: Tensor, where: Pixels) -> Tensor:
    """Light (3, N) to the camera from the pixels `where` (three index tensors) of object and depth buffers."""
    height, width = objects.shape[1:]
    rays = camera_rays(batch, *where, width, height)
    point = batch.eye[:, where[0]] + depths[where] * rays
    return _objects(batch, objects[where], point, rays / _dot(rays, rays).sqrt()).clamp(max=1)


def _corners(x: Tensor) -> Tensor:
    """The four samples of each pixel: (..., 2 height, 2 width) -> (4, ..., height, width)."""
    return torch.stack([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)])


@torch.inference_mode()
def render(batch: Batch, width: int, height: int) -> Tensor:
    """Render the scenes; CLEVR's 3:2 view is scaled to width x height, so a square picture is squashed.

    Outlines are shaded at 2 x 2 samples a pixel, the rest, whose light is smooth, once a pixel.

    Returns:
        (B, height, width, 3) uint8, sRGB.
    """
    objects, depths = buffers(batch, 2 * width, 2 * height)
    ids = _corners(objects)
    whole = (ids[0] >= 0) & (ids == ids[0]).all(0)  # (B, height, width) pixels with one object alone
    split = (objects >= 0) & ~whole.repeat_interleave(2, 1).repeat_interleave(2, 2)
    samples = torch.zeros(4, *objects.shape)  # light, and 1 where an object is
    image, row, column = split.nonzero(as_tuple=True)
    samples[:3, image, row, column] = _seen_light(batch, objects, depths, (image, row, column))
    samples[3, image, row, column] = 1
    one, two, three, four = _corners(samples)
    mixed = (one + two + three + four) / 4  # (4, B, height, width)
    ground = _ground_picture(batch, whole) * _ground_colour(batch, width, height)
    picture = mixed[:3] + (1 - mixed[3]) * ground
    image, row, column = whole.nonzero(as_tuple=True)
    one, two, three, four = _corners(depths)
    seen = _seen_light(batch, ids[0], (one + two + three + four) / 4, (image, row, column))
    picture[:, image, row, column] = seen
    return _encode(picture).permute(1, 2, 3, 0)
