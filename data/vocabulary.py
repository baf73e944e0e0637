"""What an object of a scene can be besides where it is: its attributes, as blocks of one-hot numbers in a condition.

A condition of a whole object is (x, y, shape ..., color ..., ...): a position, and for each attribute as many numbers as it
has values, 1 for the object's own and 0 for the others. A block of zeros says that the value is unknown.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import torch

FIELDS = ("shape", "color", "material", "size")  # of CLEVR's scenes, in the order of the blocks
LONGEST = 100  # characters of a value
TRIES = 50  # to draw a wrong value that occurs
Vocabulary = Mapping[str, tuple[str, ...]]  # the values of each attribute, in the order of the numbers


def cond_size(vocabulary: Vocabulary) -> int:
    """D = 2 + all values: x, y and the blocks."""
    return 2 + sum(map(len, vocabulary.values()))


def blocks(vocabulary: Vocabulary) -> Iterator[tuple[str, slice]]:
    """Each attribute and the part of a condition that is its block."""
    start = 2
    for name, values in vocabulary.items():
        yield name, slice(start, start + len(values))
        start += len(values)


def encode_object(codes: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """Blocks (K, D - 2) float32 of K objects from the numbers (K, F) of their values, -1 where unknown."""
    sizes = [len(values) for values in vocabulary.values()]
    numbers = np.array([number for size in sizes for number in range(size)])
    return (np.repeat(codes, sizes, axis=1) == numbers).astype(np.float32)


def decode_objects(conds: torch.Tensor, vocabulary: Vocabulary) -> list[dict[str, str | None]]:
    """The values that conditions (K, D) say, by attribute; None where a block is of zeros."""
    found: list[dict[str, str | None]] = []
    for cond in conds:
        own = {name: cond[block] for name, block in blocks(vocabulary)}
        found.append({name: vocabulary[name][int(v.argmax())] if bool(v.any()) else None for name, v in own.items()})
    return found


def forget(
    conds: torch.Tensor, vocabulary: Vocabulary, rng: np.random.Generator, whole: float, block: float
) -> torch.Tensor:
    """Conditions (K, D) in which values are made unknown: all with probability `whole`, else each block with `block`.

    So one network learns to answer for places alone, for single attributes and for whole objects.
    """
    known = torch.ones_like(conds)
    if rng.random() < whole:
        known[:, 2:] = 0
    else:
        dropped = rng.random((len(conds), len(vocabulary))) < block  # (K, F)
        sizes = [len(values) for values in vocabulary.values()]
        known[:, 2:] = torch.from_numpy(np.repeat(~dropped, sizes, axis=1))
    return conds * known


def mistake(
    conds: torch.Tensor,
    vocabulary: Vocabulary,
    rng: np.random.Generator,
    fields: Collection[str] | None = None,
    occurring: np.ndarray | None = None,
) -> torch.Tensor:
    """Conditions (K, D) in which one known value of each object is another one; as they are where there is no other.

    The attribute, and the wrong value, are drawn uniformly, `TRIES` times at most where such an object does not occur.

    Args:
        fields: the attributes that are mistaken. None: all.
        occurring: blocks (N, D - 2) of the objects that there are; others would teach a network which objects occur, not
            what tells values apart. None: every object occurs.
    """
    wrong = conds.clone()
    parts = [
        part for name, part in blocks(vocabulary) if len(vocabulary[name]) > 1 and (fields is None or name in fields)
    ]
    has = [np.any(conds.numpy()[:, part], axis=1) for part in parts]  # of each attribute, which objects' is known
    for row, told in enumerate(conds.numpy()):
        known = [part for part, own in zip(parts, has, strict=True) if own[row]]
        for _ in range(TRIES if known else 0):
            part, other = known[int(rng.integers(len(known)))], told.copy()
            by = int(rng.integers(1, part.stop - part.start))
            other[part] = np.concatenate([told[part][-by:], told[part][:-by]])
            if occurring is None or (occurring @ other[2:]).max() == other[2:].sum():
                wrong[row] = torch.from_numpy(other)
                break
    return wrong


def as_vocabulary(values: Mapping[str, Sequence[str]] | None) -> Vocabulary:
    """Plain JSON as a vocabulary."""
    return {name: tuple(own) for name, own in (values or {}).items()}


def text_of(value: object) -> str | None:
    """A value as a vocabulary has it: a short text, or a whole number, true or false as text; None for anything else."""
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value).strip() if isinstance(value, str | int) else ""
    return text if 0 < len(text) <= LONGEST and text.isprintable() else None


def names_of(vocabulary: Vocabulary) -> tuple[str, ...]:
    """The names of the numbers of a condition's blocks: "shape=cube", ..."""
    return tuple(f"{field}={value}" for field, values in vocabulary.items() for value in values)


def vocabulary_of(names: Sequence[str]) -> Vocabulary:
    """The vocabulary whose names these are."""
    found: dict[str, tuple[str, ...]] = {}
    for name in names:
        field, _, value = name.partition("=")
        found[field] = (*found.get(field, ()), value)
    return found
