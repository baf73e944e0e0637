"""What a calibration can be told."""

from dataclasses import dataclass

from igm.settings import Settings, positive, seed_number, setting


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings(Settings):
    """How facts are measured on images whose concepts are known."""

    max_objects: int = setting(10, "positions: largest number considered", kind=positive)
    batch_size: int = setting(1024, "most network rows at once", kind=positive)
    seed: int = setting(42, "the same seed gives the same numbers", kind=seed_number)
