"""Files that come with the package: configs, shipped models, pictures; the same in a checkout and in an installed copy.

In a checkout `igm/configs`, `igm/data`, `igm/models` and `igm/sample_images` are links to the folders at the top level.
"""

from importlib.resources import files
from pathlib import Path

_PACKAGE = Path(str(files("igm")))
CONFIGS = (_PACKAGE / "configs").resolve()
PRETRAINED = (_PACKAGE / "models" / "pretrained").resolve()
ANIMAL_PICTURES = (_PACKAGE / "data" / "animals").resolve()
SAMPLE_IMAGES = (_PACKAGE / "sample_images").resolve()
