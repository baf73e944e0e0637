"""What a calibration can be told."""

from dataclasses import dataclass

from igm import UserError
from igm.settings import Settings, int_range, path, positive, seed_number, setting, share


@dataclass(frozen=True, kw_only=True)
class CalibrationImages(Settings):
    """The images that tell; each task takes what concerns it."""

    dataset_root: str = setting(help="folder of CLEVR_v1.0, or of CelebA")
    object_counts: tuple[int, int] = setting((3, 5), "positions: per scene, as in training", kind=int_range)
    domain: str = setting("female", "attributes: as in training", choices=("female", "male", "all"))
    num_images: int = setting(50, "images used, of each folder", kind=positive)
    vary: float = setting(0.0, "positions: share of the images that get a new look, as in training", kind=share)
    other_root: str | None = setting(None, "positions: further scenes, such as of another renderer", kind=path)
    other_counts: tuple[int, int] | None = setting(None, "objects in them (default: 3-10)", kind=int_range)

    def check(self) -> None:
        """Raise UserError where numbers of objects are given for scenes that are not."""
        if self.other_root is None and self.other_counts is not None:
            raise UserError("--other_counts has no effect without --other_root; add it, or leave it out")


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings(Settings):
    """How facts are measured on images whose concepts are known."""

    max_objects: int = setting(10, "positions: largest number considered", kind=positive)
    batch_size: int = setting(1024, "most network rows at once", kind=positive)
    seed: int = setting(42, "the same seed gives the same numbers", kind=seed_number)
