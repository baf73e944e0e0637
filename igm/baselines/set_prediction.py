"""Sets of objects with presences, as a network gives them in one pass: how they are trained, and read.

A network gives S rows an image: (x, y, logit of presence), or, of whole objects, (x, y, logits of each attribute's values,
logit of presence). In training each true object is matched to a row of its own, so that the order of neither matters; the
matching is the one under which the loss is lowest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment

from igm.baselines.pixels import PixelLearner, PixelMethod
from igm.data.vocabulary import as_vocabulary, blocks, cond_size, names_of
from igm.facts import Facts
from igm.inference.method import check_counts
from igm.inference.settings import SeededSettings
from igm.inference.types import Inferred
from igm.models import ModelError
from igm.models.precision import autocast
from igm.settings import setting
from igm.training.learner import Batch
from igm.training.settings import ModelSettings

HUBER_DELTA = 0.05  # of a coordinate: the radius within which the tables count an object as found
POSITION_WEIGHT = 5.0  # of the positions against the presences, as DETR's (Carion et al. 2020)
PLACE = 2  # numbers of a position, which come first
ABSENT = -1e4  # logit of a row that is not there at all


def as_set(rows: torch.Tensor) -> torch.Tensor:
    """The last layer's numbers (..., D + 1): positions in (0, 1), then logits as they are, of presence last; in float32."""
    rows = rows.float()
    return torch.cat([rows[..., :PLACE].sigmoid(), rows[..., PLACE:]], dim=-1)


def matched_loss(
    found: torch.Tensor, conds: torch.Tensor, mask: torch.Tensor, parts: Sequence[slice] = ()
) -> torch.Tensor:
    """Loss of sets against the true objects, each object matched to one row: the lowest over all matchings.

    (1 / S) (sum over pairs of 5 (Huber(x) + Huber(y)), divided by the delta, + the cross-entropies of the attributes, + sum
    over rows of the cross-entropy of being matched). A row's cross-entropy is softplus(l) unmatched and softplus(l) - l
    matched, l its logit; so matching row s with object k adds 5 Huber + the attributes' - l_s, and the Hungarian algorithm
    on these costs finds the lowest loss exactly.

    Args:
        found: (B, S, D + 1), of `as_set`. conds: (B, K, D). mask: (B, K), 0 for padding.
        parts: each attribute's block of D; one of zeros in `conds`, a value that nobody knows, costs nothing.

    Returns:
        loss (B,).

    Raises:
        ValueError: an image with more objects than rows.
    """
    counts = mask.sum(1).long()  # (B,)
    if int(counts.max()) > found.shape[1]:
        raise ValueError(f"{int(counts.max())} objects for {found.shape[1]} rows")
    places, true = torch.broadcast_tensors(found[:, :, None, :PLACE], conds[:, None, :, :PLACE])  # (B, S, K, 2)
    distance = F.smooth_l1_loss(places, true, reduction="none", beta=HUBER_DELTA).sum(3)  # (B, S, K)
    logits = found[..., -1]  # (B, S)
    costs = POSITION_WEIGHT * distance - logits[:, :, None]  # (B, S, K)
    for part in parts:
        costs = costs - found[..., part].log_softmax(2) @ conds[..., part].mT  # (B, S, K)
    pairs = match(costs.detach().cpu().numpy(), counts.tolist())
    image, row, own = (torch.from_numpy(part).to(found.device) for part in pairs)
    matched = costs.new_zeros(len(costs)).index_add(0, image, costs[image, row, own])  # (B,)
    return (F.softplus(logits).sum(1) + matched) / found.shape[1]


def match(costs: np.ndarray, counts: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pairs of the cheapest matching of every image: (P,) image, row and object; costs (B, S, K), real objects first.

    Costs that are not finite, of a training that has diverged, match somehow: the loss says so.
    """
    matched = [
        linear_sum_assignment(np.nan_to_num(own[:, :count], posinf=1e9, neginf=-1e9))
        for own, count in zip(costs, counts, strict=True)
    ]
    image = np.repeat(np.arange(len(costs)), counts)
    return image, np.concatenate([row for row, _ in matched]), np.concatenate([own for _, own in matched])


def read_sets(found: torch.Tensor, num_concepts: torch.Tensor | None, parts: Sequence[slice] = ()) -> Inferred:
    """The objects that sets show: the K rows of highest presence, or, K unknown, all whose presence is above 0.5.

    Args:
        found: (B, S, D + 1), of `as_set`. num_concepts: (B,), where known; at most S are given.
        parts: each attribute's block of D; an object's value is the likeliest one.

    Returns:
        Inferred; confidence is the probability of these presences and no others, error its negative logarithm.
    """
    found = found.cpu()
    logits, order = found[..., -1].sort(dim=1, descending=True)  # (B, S) each
    rows = found[..., :-1].take_along_dim(order[..., None], 1)  # (B, S, D)
    shares = [rows[..., part].softmax(2) for part in parts]  # (B, S, V) each
    values = [F.one_hot(own.argmax(2), own.shape[2]).to(own) for own in shares]
    counts = (logits > 0).sum(1) if num_concepts is None else num_concepts.cpu().clamp(max=found.shape[1])  # (B,)
    there = torch.arange(found.shape[1]) < counts[:, None]  # (B, S)
    error = F.softplus(torch.where(there, -logits, logits)).sum(1)  # (B,)
    ones = torch.ones(len(found), dtype=torch.long)
    return Inferred(
        conds=torch.cat([rows[..., :PLACE], *values], dim=2)[:, : int(counts.max())],
        num_concepts=counts,
        error=error,
        forward=ones,
        backward=torch.zeros_like(ones),
        confidence=(-error).exp(),
        object_confidence=of_each(logits.sigmoid(), counts),
        marginals=of_each(torch.cat(shares, dim=2), counts) if parts else None,
    )


def of_each(rows: torch.Tensor, counts: torch.Tensor) -> list[torch.Tensor]:
    """The first rows (K_i, ...) of each image's (B, S, ...)."""
    return [own[: int(k)] for own, k in zip(rows, counts, strict=True)]


def parts_of(facts: Facts) -> list[slice]:
    """The block of a condition for each attribute that a checkpoint's facts name; none for places alone."""
    return [part for _, part in blocks(as_vocabulary(facts.vocabulary))]


class SetLearner(PixelLearner):
    """Trains a `PixelNetwork` that gives sets of positions, or of whole objects where the facts have a vocabulary.

    Its config says how many rows (`num_rows`); how many numbers a row has follows the data.
    """

    task = "positions"
    any_cond_size = True

    @classmethod
    def fresh_network(cls, model: ModelSettings, facts: Facts, **changes: Any) -> Any:
        """As that of `PixelLearner`; it must have a row for every object of a training image."""
        size = cond_size(as_vocabulary(facts.vocabulary))
        network: Any = super().fresh_network(model, facts, cond_size=size, **changes)
        most, rows = (facts.num_objects or (0, 0))[1], network.num_rows
        if most > rows:
            raise ModelError(
                f"--unet_config {model.unet_config} gives {rows} objects, training images have up to {most}; "
                "lower --object_counts, or raise the number there"
            )
        return network

    def found(self, batch: Batch) -> torch.Tensor:
        """The sets (B, S, D + 1) that the network gives for a batch."""
        return self.network(batch["pixel_values"])

    def loss(self, batch: Batch) -> torch.Tensor:
        """Mean of `matched_loss`."""
        return self.loss_of(self.found(batch), batch)

    def loss_of(self, found: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Mean of `matched_loss` of the sets found in a batch."""
        return matched_loss(found, batch["conds"], batch["mask"], parts_of(self.facts)).mean()


@dataclass(frozen=True, kw_only=True)
class SetSettings(SeededSettings):
    """Settings of the methods that read positions off the pixels."""

    count: str = setting("known", "number of objects: given, or sought", choices=("known", "infer"))


class SetMethod(PixelMethod):
    """Positions and presences of one pass."""

    task = "positions"
    settings_class: ClassVar[type[SeededSettings]] = SetSettings

    @classmethod
    def seeks_count(cls, settings: SetSettings) -> bool:
        """Whether the presences say the number of objects."""
        return settings.count == "infer"

    @classmethod
    def variant(cls, settings: SetSettings) -> str:
        """Results with a count that was sought have a folder of their own."""
        return "-count" if settings.count == "infer" else ""

    def find(self, images: torch.Tensor, counts: torch.Tensor | None, numbers: list[int]) -> torch.Tensor:
        """The sets (B, S, D + 1) of images on the model's device, whose numbers seed what is drawn."""
        return self.model.network(images)

    @torch.no_grad()
    def __call__(
        self,
        images: torch.Tensor,
        num_concepts: torch.Tensor | None = None,
        *,
        image_numbers: list[int] | None = None,
        batch_size: int = 1024,
    ) -> Inferred:
        """The objects of images (B, 3, R, R); see `read_sets`."""
        counts = None if self.seeks_count(self.settings) else check_counts(num_concepts)
        numbers = image_numbers or list(range(len(images)))
        with autocast(self.model.device, self.precision):
            found = [
                self.find(images[part].to(self.model.device), None if counts is None else counts[part], numbers[part])
                for part in (slice(i, i + batch_size) for i in range(0, len(images), batch_size))
            ]
        most = max(part.shape[1] for part in found)
        return read_sets(torch.cat([with_rows(part, most) for part in found]), counts, parts_of(self.model.facts))


class ObjectSets(SetMethod):
    """What makes a `SetMethod`, named after it among the bases, one of whole objects."""

    task = "objects"

    def __init__(self, model: Any, settings: Any, names: Sequence[str] = (), precision: str = "no"):
        super().__init__(model, settings, names or names_of(as_vocabulary(model.facts.vocabulary)), precision)


def with_rows(found: torch.Tensor, rows: int) -> torch.Tensor:
    """Sets (B, S, D + 1) filled up to so many rows with ones that are not there."""
    more = found.new_zeros(len(found), rows - found.shape[1], found.shape[2])
    more[..., -1] = ABSENT
    return torch.cat([found, more], dim=1)
