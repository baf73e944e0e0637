"""What a calibration can be told."""

from dataclasses import dataclass

from igm.settings import Settings, int_range, positive, seed_number, setting


@dataclass(frozen=True, kw_only=True)
class CalibrationImages(Settings):
    """The images that tell; each task takes what concerns it."""

    dataset_root: str = setting(help="folder of CLEVR_v1.0, or of CelebA")
    object_counts: tuple[int, int] = setting((3, 5), "positions: per scene, as in training", kind=int_range)
    domain: str = setting("female", "attributes: as in training", choices=("female", "male", "all"))
    num_images: int = setting(50, "images used", kind=positive)


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings(Settings):
    """How facts are measured on images whose concepts are known."""

    max_objects: int = setting(10, "positions: largest number considered", kind=positive)
    batch_size: int = setting(1024, "most network rows at once", kind=positive)
    seed: int = setting(42, "the same seed gives the same numbers", kind=seed_number)
