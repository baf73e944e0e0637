"""Positions and their number under a separable network: N trunk passes an image, then algebra.

Sets are chosen on one set of noise draws (`igm.inference.closed_form`) and judged on fresh ones, where each object, and
each number of objects, has to lower the error by more than a penalty that is calibrated on training images. An object near
to another pays more: it is rare, and what the network cannot explain of an object looks like a second one beside it.
"""

import dataclasses
import functools
from dataclasses import dataclass

import torch

from igm import UserError
from igm.error_form import errors_per_draw, features_in_views, measure_forms, mixing
from igm.inference.closed_form import Search, SearchSettings
from igm.inference.closed_form_grid import grid_tables, grow
from igm.inference.closed_form_refine import Sets, refine
from igm.inference.confidence import confidence_of_choice, object_confidence
from igm.inference.draws import Draws, draw_for_images, image_generators
from igm.inference.phi import Phi, QuickPhi
from igm.inference.sets import candidate_grid
from igm.inference.settings import PursuitSettings
from igm.inference.types import Inferred, Posterior
from igm.models.denoiser import Denoiser

CROWDED = (
    8.0  # penalties that two objects at one place pay on top of their own; exp(-(d / min_separation)^2) of it at d
)
SAME = 1e-3  # relative difference of errors below which two refined sets are taken for one
DRAWS_PER_ROUND = 16
WHOLE_STEPS = 2  # under the whole form, of sets that a quick search found
MOST = 4  # with a confidence asked for, at most so many times the usual draws
TRUNK_ROWS = 128  # most trunk passes at once


@dataclass
class Judged:
    """What N fresh draws say of one image's sets: errors (N, S), and which set (`best`) is chosen, how surely.

    prices (S,): how many penalties each set pays.

    contributions (N, K) of the chosen set's objects: by how much the error rises on each draw when one is taken away.
    """

    errors: torch.Tensor
    prices: torch.Tensor
    best: int
    confidence: float
    contributions: torch.Tensor


class SeparableSearch:
    """A batch of images: their error forms, and the search in them.

    Attributes:
        objects: whether what stands at the places is sought, too.
        near: numbers of objects that differ by more from the likely one are not searched further.
        first_penalty: of a count, while one is fitted.

    Raises:
        FloatingPointError: a prediction is not finite.
    """

    objects = False
    near = 2
    first_penalty = 0.002

    def __init__(
        self,
        denoiser: Denoiser,
        posterior: Posterior,
        settings: PursuitSettings,
        image_numbers: list[int] | None = None,
        batch_size: int = TRUNK_ROWS,
    ):
        s = self.settings = settings.for_facts(denoiser.facts).for_network(separable=True, objects=self.objects)
        self.denoiser, self.posterior, self.batch_size = denoiser, posterior, min(batch_size, TRUNK_ROWS)
        self.numbers = image_numbers or list(range(len(posterior)))
        self.views, self.mix = posterior.in_views(s.num_views), mixing(denoiser)
        network, views = getattr(denoiser.network, "module", denoiser.network), [own.view for own in self.views]
        self.phi, few = Phi(network, views), QuickPhi(network, views)
        self.t_range, self.separation = s.range_of(denoiser.num_timesteps), s.min_separation
        generators = image_generators(s.seed, self.numbers, stream=3)
        draws = self.draws(slice(None), s.num_draws, self.t_range, generators)
        self.form = measure_forms(denoiser, draws, self.batch_size)
        along, grid = self.form.along(few.directions), candidate_grid(s.num_candidates, s.bounds).to(posterior.mean)
        tables = grid_tables(along, grid, few.of_grid(grid), self.separation)
        whole = dataclasses.replace(tables, phi=self.phi.of_grid(grid))  # candidates are chosen by the quick b and G
        search = SearchSettings(self.separation, num_steps=s.num_steps)
        self.quick, self.whole = Search(along, tables, few, search), Search(self.form, whole, self.phi, search)

    def draws(
        self, images: slice, number: int, t_range: tuple[int, int], generators: list[torch.Generator]
    ) -> list[Draws]:
        """`number` draws of each image, shared among its views."""
        each = self.each_view(number)
        return [draw_for_images(own[images], each, t_range, generators, stratified=True) for own in self.views]

    def each_view(self, num_draws: int) -> int:
        """Draws of each view, of so many in all."""
        return -(-num_draws // len(self.views))

    def in_whole(self, images: torch.Tensor, sets: Sets) -> Sets:
        """One set of each of some images that a quick search found, after some steps under the whole form."""
        return self.whole.among(images).off_grid(sets.conds[:, 0], min(WHOLE_STEPS, self.settings.num_steps))

    def improved(self, images: torch.Tensor, sets: Sets) -> Sets:
        """One set of each of some images, places alone, after moves."""
        search = self.quick.among(images)
        return self.in_whole(images, search.improved(search.off_grid(sets.conds[:, 0])))

    def known(self, num_concepts: torch.Tensor) -> list[Sets]:
        """For each image its set of the known size.

        Raises:
            UserError: more objects than candidates that may stand together.
        """
        found: dict[int, Sets] = {}
        for k in num_concepts.unique().tolist():
            rows = (num_concepts == k).nonzero()[:, 0]
            images = rows.to(self.form.g.device)
            search = self.quick.among(images)
            members = grow(search.tables, k)
            if len(members) < k:
                raise UserError(
                    f"{k} objects asked for, {len(members)} of the {len(search.tables.conds)} candidates may stand "
                    "together; raise --num_candidates or lower --min_separation"
                )
            sets = search.improved(search.off_grid(search.tables.conds[members[-1]]))
            other = search.greedy(k)  # from elsewhere: what one start misses, the other finds
            differs = ((other.error - sets.error).abs() > SAME * sets.error)[:, 0]  # (B,), it ended at another set
            if bool(differs.any()):
                another = search.among(differs).improved(other.where(differs))
                better = another.error < sets.where(differs).error
                sets.put(differs, sets.where(differs).replaced(better, another))
            sets = self.in_whole(images, sets)
            found |= {row: sets.of(own) for own, row in enumerate(rows.tolist())}
        return [found[row] for row in range(len(found))]

    @functools.cached_property
    def every(self) -> list[list[Sets]]:
        """For each image its sets of K = 1, 2, ... objects, each from the grid's set or from the last one and an object.

        Moves are tried where the error plus penalties is near its least: other numbers will not be chosen.
        """
        search, found = self.quick, list[Sets]()
        for members in grow(search.tables, self.settings.max_objects):
            sets = search.off_grid(search.tables.conds[members], num_steps=0)
            if found:
                larger = search.enlarged(found[-1])
                sets = sets.replaced(larger.error < sets.error, larger)
            found.append(search.off_grid(sets.conds[:, 0], search.settings.trial_steps))
        each = [[sets.of(i) for sets in found] for i in range(len(self.numbers))]
        likely = torch.tensor([self.likely(own) for own in each], device=self.form.g.device)  # (B,), K - 1
        for j in range(len(found)):
            near = (likely - j).abs() <= self.near  # (B,)
            start, rows = found[j].where(near), near.nonzero()[:, 0]
            found[j] = self.whole.off_grid(found[j].conds[:, 0], num_steps=0)
            if len(rows):
                found[j].put(near, self.improved(rows, start))
        return [[sets.of(i) for sets in found] for i in range(len(self.numbers))]

    def first_look(self) -> Inferred:
        """An only image by the draws that choose, its number sought: nothing is judged on fresh ones."""
        sets = self.every[0]
        return self.seen(sets[self.likely(sets)])

    def seen(self, sets: Sets) -> Inferred:
        """One set of an only image as an answer, of which nothing says how sure it is."""
        draws = len(self.views) * self.each_view(self.settings.num_draws)
        forward, backward = torch.tensor([draws]), torch.zeros(1, dtype=torch.long)
        number = torch.tensor([sets.conds.shape[2]])
        return Inferred(sets.conds[:, 0], number, sets.error[:, 0], forward, backward, gain=sets.gain[:, 0])

    def told(self, image: int) -> list[Sets]:
        """An image's sets of every number, with all that is said of their objects: here, places alone."""
        return self.every[image]

    def described(self, image: int, sets: Sets) -> Sets:
        """An image's set of a known number with all that is said of its objects: here, places alone."""
        return sets

    def likely(self, sets: list[Sets]) -> int:
        """Which of an image's sets has the least error plus penalties, on the draws that chose them."""
        errors = torch.cat([own.error[:, 0] for own in sets]).cpu()
        return int((errors + self.settings.count_penalty * self.prices(sets)).argmin())

    def prices(self, sets: list[Sets]) -> torch.Tensor:
        """How many penalties each of an image's sets pays: one an object, and more where objects are near to each other."""
        distances = [torch.pdist(own.conds[0, 0, :, :2]) for own in sets]
        crowds = torch.stack([torch.exp(-((own / max(self.separation, 1e-6)) ** 2)).sum() for own in distances])
        return torch.tensor([float(own.conds.shape[2]) for own in sets]) + CROWDED * crowds.cpu()

    def from_positions(self, conds: torch.Tensor) -> Sets:
        """The set that refinement reaches from given positions (K, D) in an only image, such as the true ones.

        Where they are nearer to each other than the search allows, they may stay so.
        """
        real = torch.ones(1, 1, len(conds), dtype=torch.bool, device=self.form.g.device)
        nearest = float(torch.pdist(conds).min()) if len(conds) > 1 else self.separation
        start, apart = conds[None, None].to(self.form.g), min(self.separation, nearest)
        return refine(self.form, self.phi, start, real, min_separation=apart, num_steps=self.settings.num_steps)

    def judge(self, image: int, sets: list[Sets], *, rounds: list[int], t_range: tuple[int, int]) -> Judged:
        """One image's sets under fresh draws, at the gains of the draws that chose them.

        Args:
            rounds: draws of each round; the first that is as sure as the settings ask for is the last.
        """
        s, fresh = self.settings, None
        composed = torch.stack([self.parts(own).sum(0) for own in sets])  # (S, P, R)
        generator = image_generators(s.seed, [self.numbers[image]], stream=5)
        prices = self.prices(sets)  # (S,)
        price = s.count_penalty * prices
        for number in rounds:
            draws = self.draws(slice(image, image + 1), number, t_range, generator)
            found = features_in_views(self.denoiser, draws, 0, self.batch_size)
            fresh = found if fresh is None else fresh.joined(found)
            errors = errors_per_draw(fresh, self.mix, composed).cpu()  # (N, S)
            best = int((errors.mean(0) + price).argmin())
            sure = confidence_of_choice(errors + price, best, s.count_scale)
            if s.confidence is not None and sure >= s.confidence < 1:
                break
        if fresh is None:
            raise ValueError("no round of draws to judge by")
        each = self.parts(sets[best])
        without = errors_per_draw(fresh, self.mix, composed[best] - each).cpu()  # (N, K)
        return Judged(errors, prices, best, sure, without - errors[:, best : best + 1])

    def parts(self, sets: Sets) -> torch.Tensor:
        """What each object of a set adds to m, at the set's gain: (K, P, R)."""
        return sets.gain[0, 0] * self.phi(sets.conds[0, 0])

    def with_known(self, num_concepts: torch.Tensor) -> Inferred:
        """See `infer_known`."""
        sets = [[self.described(i, own)] for i, own in enumerate(self.known(num_concepts))]
        rounds = [self.settings.confidence_draws]
        return self.answer(
            sets, [self.judge(i, own, rounds=rounds, t_range=self.t_range) for i, own in enumerate(sets)]
        )

    def with_number(self) -> Inferred:
        """See `infer_number`."""
        s = self.settings
        sets = [self.told(i) for i in range(len(self.numbers))]
        rounds = (
            [s.count_draws] if s.confidence is None else [DRAWS_PER_ROUND] * -(-MOST * s.count_draws // DRAWS_PER_ROUND)
        )
        judged = [self.judge(i, own, rounds=rounds, t_range=s.count_range) for i, own in enumerate(sets)]
        found = self.answer(sets, judged)
        found.confidence = torch.tensor([own.confidence for own in judged])
        found.count_errors, found.count_prices = [own.errors for own in judged], [own.prices for own in judged]
        return found

    def answer(self, sets: list[list[Sets]], judged: list[Judged]) -> Inferred:
        """What was found: for each image the chosen one of its sets."""
        draws, views = self.each_view(self.settings.num_draws), len(self.views)
        s, chosen = self.settings, [own[verdict.best] for own, verdict in zip(sets, judged, strict=True)]
        sure = [object_confidence(own.contributions, s.count_penalty, s.confidence_scale) for own in judged]
        return Inferred(
            conds=torch.nn.utils.rnn.pad_sequence([own.conds[0, 0] for own in chosen], batch_first=True),
            num_concepts=torch.tensor([own.conds.shape[2] for own in chosen]),
            error=torch.cat([own.error[:, 0] for own in chosen]),
            forward=torch.tensor([views * (draws + len(own.errors)) for own in judged]),
            backward=torch.zeros(len(judged), dtype=torch.long),
            confidence=torch.stack([(1 - (1 - own).sum()).clamp(0, 1) for own in sure]),
            object_confidence=sure,
            contributions=[own.contributions for own in judged],
            gain=torch.cat([own.gain[:, 0] for own in chosen]),
        )


@torch.no_grad()
def infer_known(
    denoiser: Denoiser,
    posterior: Posterior,
    num_concepts: torch.Tensor,
    settings: PursuitSettings | None = None,
    *,
    image_numbers: list[int] | None = None,
    batch_size: int = TRUNK_ROWS,
    search_class: type[SeparableSearch] = SeparableSearch,
) -> Inferred:
    """Positions in B images whose number of objects is known, num_concepts (B,).

    Args:
        settings: what is None there comes from the checkpoint's facts, or is the default for a separable network.
        image_numbers: seed an image's draws, so that they do not depend on the batch. batch_size: most trunk passes at
            once, up to 128. search_class: what is sought.

    Returns:
        Inferred; the confidence is that every object is right; a network row is one trunk pass.

    Raises:
        UserError: more objects than candidates that may stand together. FloatingPointError: a prediction is not finite.
    """
    search = search_class(denoiser, posterior, settings or PursuitSettings(), image_numbers, batch_size)
    return search.with_known(num_concepts)


@torch.no_grad()
def infer_number(
    denoiser: Denoiser,
    posterior: Posterior,
    settings: PursuitSettings | None = None,
    *,
    image_numbers: list[int] | None = None,
    batch_size: int = TRUNK_ROWS,
    search_class: type[SeparableSearch] = SeparableSearch,
) -> Inferred:
    """Positions and their number in B images: the number with the lowest error on fresh draws plus penalties.

    Args:
        settings, image_numbers, batch_size, search_class: as in `infer_known`.

    Returns:
        Inferred; confidence (B,) that K is right; `count_errors`, the error of every K on every fresh draw, and
        `count_prices`, how many penalties each pays.

    Raises:
        FloatingPointError: a prediction is not finite.
    """
    search = search_class(denoiser, posterior, settings or PursuitSettings(), image_numbers, batch_size)
    return search.with_number()
