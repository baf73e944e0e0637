"""From the options of `generate.py` to pictures, a grid, and how much of what was asked for is found in them again."""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from igm import UserError, say
from igm.api import asks_of, load_model
from igm.cli.options import take
from igm.facts import Facts
from igm.figures.grid import save_image_grid
from igm.figures.style import write_picture
from igm.files import replace_json
from igm.generation import Composition, SamplingSettings, own_guidance
from igm.hub import is_pipeline, resolve
from igm.kinds import KINDS, FoundAgain, Kind
from igm.settings import Kind as Word
from igm.settings import Settings, number, path, positive, setting

COLUMNS = 8  # of the grid
word = Word(str.strip, bool, "a word")  # without the space that `readable` may have put before it


@dataclass(frozen=True, kw_only=True)
class AskedSettings(Settings):
    """What the pictures shall show: one of the first four."""

    positions: tuple[str, ...] | None = setting(None, "places of objects, in 0 to 1", nargs="+", metavar="X,Y")
    objects: tuple[str, ...] | None = setting(None, "like 'small red cube @0.3,0.7'", nargs="+", metavar="TEXT")
    attributes: tuple[str, ...] | None = setting(
        None, "like Smiling, or -Male for not", kind=word, nargs="+", metavar="NAME"
    )
    prompts: tuple[str, ...] | None = setting(None, "texts, for a Stable Diffusion", nargs="+", metavar="TEXT")
    negative: tuple[str, ...] = setting(
        (), "of the same kind: what shall not be there", kind=word, nargs="+", metavar="TEXT"
    )
    weights: tuple[float, ...] | None = setting(
        None, "of all concepts, in their order (default: 1, and -0.5 of negative ones)", kind=number, nargs="+"
    )
    num_images: int = setting(8, "pictures, all of the same concepts", kind=positive)

    def check(self) -> None:
        given = [name for name in KINDS if getattr(self, name) is not None]
        if len(given) != 1:
            words = " and ".join(f"--{name}" for name in given) or "nothing"
            raise UserError(f"{words} asked for: give one of {', '.join(f'--{name}' for name in KINDS)}")

    @property
    def kind(self) -> Kind:
        """Of the concepts."""
        return next(kind for name, kind in KINDS.items() if getattr(self, name) is not None)

    def composition(self) -> Composition:
        """What the words say.

        Raises:
            UserError: they say no concepts.
        """
        concepts, negative = ([self.kind.read(text) for text in own] for own in (self.words, self.negative))
        return Composition(self.kind, concepts, negative, self.weights)

    @property
    def words(self) -> tuple[str, ...]:
        """The concepts as they were typed."""
        return getattr(self, self.kind.name)


@dataclass(frozen=True, kw_only=True)
class PlaceSettings(Settings):
    """With which model, and where to."""

    checkpoint: str = setting("clevr-scene-draw", "shipped name, folder, or hub id")
    out: str = setting("outputs/generated", "new folder of the pictures", kind=path, determines=False)
    device: str | None = setting(None, "cuda, mps or cpu (default: the best there is)", determines=False)
    revision: str | None = setting(None, "branch, tag or commit on the hub")
    local_files_only: bool = setting(False, "never ask the hub", determines=False)
    no_check: bool = setting(False, "do not infer what was generated", determines=False)


def readable(words: Sequence[str]) -> list[str]:
    """The words of a command line, in which argparse takes `-Male` for a value and no option."""
    return [f" {word}" if re.fullmatch(r"-[A-Za-z_]\w+", word) else word for word in words]


def check_request(composition: Composition, place: PlaceSettings) -> None:
    """Find the mistakes that show before a model is loaded.

    Raises:
        UserError: in one line, with the mend.
    """
    folder = Path(place.out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--out {folder} is not an empty folder; name a new one")
    found = resolve(place.checkpoint, place.revision, place.local_files_only)
    asks, kind = asks_of(found), composition.kind.name
    if asks and kind not in asks:
        raise UserError(f"--{kind}: checkpoint {place.checkpoint} knows {' and '.join(f'--{name}' for name in asks)}")
    if asks and not is_pipeline(found):
        facts = Facts.read(found)
        composition.check(facts)
        if facts.draws and facts.partner is None and not place.no_check:
            raise UserError(f"checkpoint {place.checkpoint} names no partner that finds objects again; add --no_check")


def run_generation(options: Any) -> None:
    """Generate, write and look again.

    Raises:
        UserError, ModelError: a mistake of the user, in one line.
    """
    asked, place = take(options, AskedSettings), take(options, PlaceSettings)
    settings, composition = take(options, SamplingSettings), asked.composition()
    check_request(composition, place)
    model = load_model(place.checkpoint, place.device, revision=place.revision, local_files_only=place.local_files_only)
    settings = settings.filled({"guidance": own_guidance(model.model)})
    kind, sampling = asked.kind.name, dataclasses.asdict(settings)
    concepts = {kind: composition.concepts}
    own = {"negative": composition.negative, "weights": asked.weights, **concepts}
    pictures = model.generate(num_images=asked.num_images, **own, **sampling)
    again = None if place.no_check else model.find_again(pictures, **concepts)
    write(Path(place.out), pictures, again, {**asked.determining(), **place.determining(), **settings.determining()})
    if not place.no_check:
        say(str(again or "found again: nobody can tell, as the prompts do not name the classes that the model learnt"))
    say(f"Pictures, grid.png and generation.json: {place.out}")


def write(folder: Path, pictures: Sequence[Image.Image], again: FoundAgain | None, options: dict[str, Any]) -> None:
    """Pictures, their grid, and a record of both options and what was found again."""
    for k, picture in enumerate(pictures):
        write_picture(folder / f"{k:04d}.png", picture.save)
    rows = [pictures[k : k + COLUMNS] for k in range(0, len(pictures), COLUMNS)]
    save_image_grid(rows, folder / "grid.png")
    found = None if again is None else {**dataclasses.asdict(again), "share": again.found / again.of}
    replace_json(folder / "generation.json", {"options": options, "found_again": found})
