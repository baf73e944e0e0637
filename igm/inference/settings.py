"""The settings of every method of inference: options of the commands, keywords of the API, and what results depend on."""

from dataclasses import dataclass
from typing import Self

from igm.facts import Facts
from igm.settings import (
    SettingError,
    Settings,
    check_t_range,
    decay,
    not_negative,
    not_negative_float,
    positive,
    positive_float,
    probability,
    seed_number,
    setting,
    share,
    timestep,
)

LOW_HIGH = ("LOW", "HIGH")
_MEASURED = {
    "min_separation": 0.05,
    "count_penalty": 0.0,
    "confidence_scale": 1.0,
    "count_scale": 1.0,
    "attribute_scale": 1.0,
}

# Draws of a separable network cost one pass of its trunk, however many candidates they price.
_SEPARABLE = {
    "t_range": (0, 400),
    "num_candidates": 100,  # first places: refinement and moves leave the grid
    "num_draws": 32,
    "confidence_draws": 12,
    "num_steps": 8,
    "count_draws": 80,
    "count_range": (0, 500),
}
_OBJECTS = _SEPARABLE | {"num_draws": 64}  # what an object is takes more of them than where it is
_SHARED = {
    "t_range": (0, 500),
    "num_candidates": 256,
    "num_draws": 16,
    "confidence_draws": 16,
    "num_steps": 15,
    "count_draws": 48,
    "count_range": (200, 500),
}


def t_range_setting(default: tuple[int, int] | None, help: str) -> tuple[int, int]:
    """A range of timesteps, [low, high)."""
    return setting(default, help, kind=timestep, nargs=2, metavar=LOW_HIGH, option="timestep_range")


@dataclass(frozen=True, kw_only=True)
class SeededSettings(Settings):
    """What every method can be told, whether it sees noise or not."""

    seed: int = setting(0, "the same seed gives the same numbers", kind=seed_number)

    def for_facts(self, facts: Facts) -> Self:
        """A copy in which a checkpoint's facts stand for what is None."""
        return self.filled(facts.known())


@dataclass(frozen=True, kw_only=True)
class InferenceSettings(SeededSettings):
    """What every method that asks a denoiser can be told."""

    t_range: tuple[int, int] | None = t_range_setting(
        None, "timesteps of the noise (default: the checkpoint's, or all)"
    )

    def check(self) -> None:
        check_t_range(self.t_range)

    def range_of(self, num_timesteps: int) -> tuple[int, int]:
        """The timesteps of the noise: [low, high), the whole schedule where nothing else is said.

        Raises:
            SettingError: beyond the schedule.
        """
        if self.t_range is None:
            return 0, num_timesteps
        check_t_range(self.t_range, most=num_timesteps)
        return self.t_range[0], self.t_range[1]


@dataclass(frozen=True, kw_only=True)
class GradientSettings(InferenceSettings):
    """Settings of `igm.inference.gradient`; the defaults are the published code's, with ten starts instead of one."""

    title = "gradient"
    t_range: tuple[int, int] = t_range_setting((0, 500), "timesteps of the noise")
    num_inits: int = setting(10, "starts of every image; the best is taken", kind=positive)
    num_steps: int = setting(2000, "steps of the descent", kind=not_negative)
    num_draws: int = setting(64, "fresh noise draws", kind=positive)
    learning_rate: float = setting(4e-3, "of the positions", kind=positive_float)
    adam_beta1: float = setting(0.9, "of AdamW", kind=decay)
    adam_beta2: float = setting(0.999, "of AdamW", kind=decay)
    adam_epsilon: float = setting(1e-8, "of AdamW", kind=positive_float)
    adam_weight_decay: float = setting(
        0.0, "of AdamW; the published code has 0.01, which pulls positions to the corner", kind=not_negative_float
    )
    offset_noise: bool = setting(False, "add one normal number per channel to the noise")
    set_grads_to_none: bool = setting(True, "instead of zeros; results are the same", determines=False)
    count: str = setting("known", "number of objects: given, or sought", choices=("known", "infer"))
    animate: int = setting(
        0,
        "GIFs of so many images of every group",
        kind=not_negative,
        metavar="N",
        determines=False,
        needs="shows the steps of --method gradient; add that",
    )

    def check(self) -> None:
        super().check()
        if self.count == "infer":
            raise SettingError(
                "count", "infer", "needs --method pursuit, which finds the best set of every size at once"
            )


@dataclass(frozen=True, kw_only=True)
class PursuitSettings(InferenceSettings):
    """Settings of `igm.inference.pursuit` and `igm.inference.counting`."""

    title = "pursuit"
    t_range: tuple[int, int] = t_range_setting(
        None, "timesteps of the noise (default: the checkpoint's, or 0 500; separable network: 0 400)"
    )
    count: str = setting("known", "number of objects: given, or sought", choices=("known", "infer"))
    num_candidates: int = setting(
        None, "positions on the grid, about (default: 256; separable network: 100)", kind=positive
    )
    num_draws: int = setting(
        None,
        "noise draws that price the candidates (default: 16; separable network: 32, whole objects: 64)",
        kind=positive,
    )
    num_views: int = setting(
        2,
        "separable network: 2 shares the draws between the picture and a view moved by half a patch",
        kind=positive,
    )
    num_steps: int = setting(None, "steps of the refinement (default: 15; separable network: 8)", kind=not_negative)
    learning_rate: float = setting(
        4e-3, "of the positions; it falls to a tenth (separable network: no such rate)", kind=positive_float
    )
    min_separation: float = setting(
        None, "nearer positions exclude each other (default: the checkpoint's, or 0.05)", kind=share
    )
    bounds: tuple[float, float, float, float] = setting(
        None,
        "where objects can be (default: the checkpoint's, or the whole image)",
        kind=share,
        nargs=4,
        metavar=("LEFT", "TOP", "RIGHT", "BOTTOM"),
    )
    max_objects: int = setting(10, "count infer: largest number considered", kind=positive)
    count_draws: int = setting(
        None, "count infer: fresh draws that judge (default: 48; separable network: 80)", kind=positive
    )
    count_range: tuple[int, int] = setting(
        None,
        "count infer: their timesteps (default: 200 500; separable network: 0 500)",
        kind=timestep,
        nargs=2,
        metavar=LOW_HIGH,
    )
    count_penalty: float = setting(
        None, "error that an object must save (default: the checkpoint's, or 0)", kind=not_negative_float
    )
    confidence: float | None = setting(
        None, "count infer: draw until so sure, at most 4 x count_draws; 1: so many", kind=probability
    )
    confidence_draws: int = setting(
        None, "fresh draws that tell how sure each object is (default: 16; separable network: 12)", kind=positive
    )
    confidence_scale: float = setting(
        None, "of objects' confidence (default: the checkpoint's, or 1)", kind=not_negative_float
    )
    count_scale: float = setting(
        None, "of counts' confidence (default: the checkpoint's, or 1)", kind=not_negative_float
    )

    attribute_scale: float = setting(
        None, "of attributes' confidence (default: the checkpoint's, or 1)", kind=not_negative_float
    )

    def check(self) -> None:
        super().check()
        check_t_range(self.count_range, "count_range")
        if self.num_views > 2:
            raise SettingError("num_views", self.num_views, "must be 1 or 2")
        if self.confidence is not None and self.count == "known":
            raise SettingError("confidence", self.confidence, "is that of the number of objects; add --count infer")

    def for_facts(self, facts: Facts) -> Self:
        """A copy in which a checkpoint's facts, or else defaults, stand for what is None."""
        return super().for_facts(facts).filled(_MEASURED)

    def for_network(self, separable: bool, objects: bool = False) -> Self:
        """A copy in which the defaults for a kind of network, and for whole objects, stand for what is None."""
        return self.filled((_OBJECTS if objects else _SEPARABLE) if separable else _SHARED)


@dataclass(frozen=True, kw_only=True)
class DiscreteSettings(InferenceSettings):
    """Settings of `igm.inference.discrete`."""

    title = "discrete"
    num_draws: int = setting(1000, "noise draws of an image, at most", kind=positive)
    draws_per_round: int = setting(50, "draws between two looks at the confidence", kind=positive)
    confidence: float | None = setting(
        None, "stop drawing for an image that is so sure, such as 0.99; 1: never", kind=probability
    )

    @property
    def stops_at(self) -> float | None:
        """The confidence at which an image is done; None: never before all draws."""
        return self.confidence if self.confidence is not None and self.confidence < 1 else None
