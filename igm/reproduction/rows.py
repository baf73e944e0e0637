"""What a table of the paper is made of: rows, each with its training, its evaluation and the paper's numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Published:
    """What the paper has in a cell: a share in %, and the estimation error where it gives one."""

    score: float
    error: float | None = None


@dataclass(frozen=True)
class Place:
    """Where a reproduction reads and writes, and how much of it is asked for.

    Args:
        dataset_root: images that are evaluated. train_root: those that are trained on.
        output_dir: models go to `models-<scale>`, results to `<table>-<scale>`.
        num_processes: of a training. num_images: of each group, None: as the table says.
    """

    table: str
    scale: str
    dataset_root: str
    train_root: str
    output_dir: Path
    num_processes: int
    num_images: int | None = None

    @property
    def models(self) -> Path:
        """Where trainings go; tables of one scale share them."""
        return self.output_dir / f"models-{self.scale}"

    @property
    def results(self) -> Path:
        """Where evaluations go, and the report; of another number of images elsewhere."""
        number = f"-{self.num_images}" if self.num_images else ""
        return self.output_dir / f"{self.table}-{self.scale}{number}"


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training command of the project; rows that need the same model share it.

    Args:
        script: of the top level. options: its words, the config among them. name: of the run.
        steps: after which the model is evaluated. processes: that `options` are meant for.
        step_seconds: what a step takes on so many processes, where something is known about it.
    """

    script: str
    options: tuple[str, ...]
    name: str
    steps: int
    processes: int = 1
    step_seconds: float | None = None

    def folder(self, place: Place) -> Path:
        """Where the run is written."""
        return place.models / self.name

    def checkpoint(self, place: Place) -> Path:
        """What the training ends with."""
        return self.folder(place) / f"checkpoint-{self.steps}"

    def words(self, place: Place) -> list[str]:
        """Script and options. Fewer processes than the options are meant for take so many micro-batches a step more."""
        accumulation = self.processes // place.num_processes
        more = ["--gradient_accumulation_steps", str(accumulation)] if accumulation > 1 else []
        return [
            *(self.script, *self.options, "--max_train_steps", str(self.steps), *more),
            *("--resume_from_checkpoint", "latest", "--report_to", "none", "--dataset_root", place.train_root),
            *("--output_dir", str(place.models), "--tracker_project_name", self.name),
        ]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table.

    Args:
        name: of `--only`, and of its folder. title: as the table has it.
        evaluation: script and options. training: what makes its model, unless it is `checkpoint`, a shipped one or the
            method's own default.
        paper: by group. note: what the reader has to know. optional: where its commands refuse, the table goes on without.
        groups: how many groups it has. image_seconds: what an image takes, where something is known about it.
        panel, x: of the figure; rows of a panel are its points, in their order.
    """

    name: str
    title: str
    evaluation: tuple[str, ...]
    training: Training | None = None
    checkpoint: str = ""
    paper: Mapping[str, Published] = field(default_factory=dict)
    note: str = ""
    optional: bool = False
    groups: int = 2
    image_seconds: float | None = None
    panel: str = ""
    x: str = ""

    def folder(self, place: Place) -> Path:
        """Where its results are written."""
        return place.results / self.name

    def model(self, place: Place) -> list[str]:
        """The option that names its model."""
        name = self.checkpoint or (str(self.training.checkpoint(place)) if self.training else "")
        return ["--checkpoint", name] if name else []

    def words(self, place: Place, num_images: int) -> list[str]:
        """Script and options of its evaluation."""
        return [
            *(*self.evaluation, *self.model(place), "--dataset_root", place.dataset_root),
            *("--num_images", str(place.num_images or num_images), "--resume"),
            *("--output_dir", str(place.results), "--tracker_project_name", self.name),
        ]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the paper at a scale.

    Args:
        title: what it shows. score: name of the headline score. rows: in order.
        reference: name of the row that others are compared with.
        num_images: of each group, where nobody says otherwise. basis: what the estimated hours are made of.
        dataset_root: where nobody says otherwise; "": it has to be said. trains_elsewhere: the images that are evaluated
            are not those that are trained on. compares_groups: beside each attribute's share stands by how much it is
            above that of the row's first group.
    """

    title: str
    score: str
    rows: tuple[Row, ...]
    reference: str
    num_images: int
    basis: str
    processes: int = 1
    dataset_root: str = ""
    trains_elsewhere: bool = False
    compares_groups: bool = False
