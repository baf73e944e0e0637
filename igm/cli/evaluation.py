"""From the options of an evaluation script to records, a table and figures."""

import dataclasses
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from accelerate import PartialState

from igm import UserError, say
from igm.cli.options import Parser, note_idle, take
from igm.data import NothingAsked
from igm.data.images import FITS
from igm.data.unlabelled import Pictures
from igm.devices import compile_where_right, find_device, usable_precision
from igm.dry_run import describe, memory_estimate, parts_of
from igm.evaluation.answers import format_answers
from igm.evaluation.redraw import redraw
from igm.evaluation.run import BatchSettings, Groups, evaluate
from igm.evaluation.table import format_table
from igm.evaluation.weights import weights_fingerprint
from igm.facts import FACTS_FILE, Facts
from igm.inference.method import Method, methods_of, warn_of_unlike
from igm.models import ModelError
from igm.resources import PRETRAINED
from igm.settings import Settings, folder_name, positive, setting
from igm.tasks import find_task
from igm.tasks.task import Task
from igm.training.checkpoints import list_checkpoints


@dataclass(frozen=True, kw_only=True)
class DataSettings(Settings):
    """What every evaluation can be told of its images; a script adds its own."""

    dataset_root: str | None = setting(None, "folder of the dataset; without it, sample data of the project's own")
    num_images: int | None = setting(None, "images of each group", kind=positive)
    resolution: int | None = setting(None, "side that images are resized to (default: the checkpoint's)", kind=positive)
    fit: str | None = setting(
        None, "how other shapes become squares (default: squeeze; animals from 256 pixels on: crop)", choices=FITS
    )
    skip_bad_images: bool = setting(False, "leave out unreadable images, and count them")

    def bounds(self, number: int | None) -> dict[str, Any]:
        """What every dataset takes: how many images, what becomes of bad ones, and how others become squares."""
        return {"max_images": number, "skip_bad_images": self.skip_bad_images, "fit": self.fit}

    @property
    def num_known(self) -> int | None:
        """The number of concepts that a user gives for images without ground truth."""
        return None

    @property
    def labelled(self) -> bool:
        """Whether the images come with their ground truth."""
        return True

    @property
    def names(self) -> tuple[str, ...] | None:
        """Names of what a concept can be, where a user gives them; else the dataset has them."""
        return None

    @property
    def variant(self) -> str:
        """What follows the method's name in the name of a results folder."""
        return ""


@dataclass(frozen=True, kw_only=True)
class OwnPictures(DataSettings):
    """For scripts that take pictures of one's own, too."""

    images: tuple[str, ...] | None = setting(None, "own pictures: files, folders; no scores", nargs="+", metavar="PATH")

    @property
    def labelled(self) -> bool:
        """One's own pictures come without ground truth."""
        return not self.images

    @property
    def variant(self) -> str:
        """Their results have a folder of their own."""
        return "-images" if self.images else ""

    def own_pictures(self, group: str) -> Groups:
        """The pictures of --images as one group."""
        pictures = Pictures(
            self.images or (), max_images=self.num_images, skip_bad_images=self.skip_bad_images, fit=self.fit
        )
        return {group: pictures}


@dataclass(frozen=True, kw_only=True)
class RunSettings(Settings):
    """Where an evaluation computes, and where its results go."""

    checkpoint: str | None = setting(
        None, "folder, checkpoint-N, shipped name or hub id (default: newest of the run, or shipped)", determines=False
    )
    device: str | None = setting(None, "cuda, mps or cpu (default: the best there is)", determines=False)
    mixed_precision: str = setting("no", "network's arithmetic", choices=("no", "fp16", "bf16"))
    allow_tf32: bool = setting(False, "TF32 matrix products on Ampere and later GPUs")
    compile: bool = setting(False, "torch.compile the network: for many images on a GPU", determines=False)
    output_dir: str = setting("outputs", "results go to <output_dir>/<tracker_project_name>", determines=False)
    tracker_project_name: str | None = setting(
        None, "name of the run and of its folder (default: the method's)", kind=folder_name, determines=False
    )
    no_figures: bool = setting(False, "records and summary only", determines=False)
    dry_run: bool = setting(False, "print options, data, parameters and memory, and stop", determines=False)


DataT = TypeVar("DataT", bound=DataSettings)


@dataclass(frozen=True)
class Evaluation(Generic[DataT]):
    """What an evaluation script was asked for."""

    task: Task
    method: type[Method]
    settings: Any  # of the method's settings_class
    loading: Any  # of its loading_class
    data: DataT
    batching: BatchSettings
    run: RunSettings
    facts: Facts = Facts()  # of the checkpoint, as far as they are needed to read the images

    @property
    def run_dir(self) -> Path:
        """The folder of the run, which trainings of the same name share."""
        return Path(self.run.output_dir) / (self.run.tracker_project_name or self.method.run)

    @property
    def results_dir(self) -> Path:
        """Where records, summary and figures go."""
        return self.run_dir / f"eval-{self.method.name}{self.method.variant(self.settings)}{self.data.variant}"

    def checkpoint(self) -> str:
        """The checkpoint to evaluate: the one named, else the newest of the run, else the shipped model.

        The shipped model, where there is one, is taken only with the embedded data (no --dataset_root).

        Raises:
            ModelError: a dataset is given, but no checkpoint, and the run has none.
        """
        named, shipped = self.run.checkpoint or self.method.default_checkpoint(self.loading), self.method.shipped
        if named:
            return named
        if self.data.dataset_root is None and shipped:
            return str(PRETRAINED / shipped)
        found = list_checkpoints(self.run_dir)
        if not found:
            hint = f" (shipped: {shipped})" if shipped else ""
            raise ModelError(f"no checkpoint-* in {self.run_dir}; pass --checkpoint{hint}")
        return str(found[-1])

    def refined(self) -> "Evaluation[DataT]":
        """The same with the task of the checkpoint, where that refines this one (objects: positions and more).

        Raises:
            UserError: the method does not know that task.
        """
        try:
            checkpoint = self.checkpoint()
            facts = self.method.facts_of(checkpoint, self.loading)
        except ModelError:
            return self  # said when the checkpoint is loaded; mistakes in the images come first
        task = find_task(facts.task, f"--checkpoint {checkpoint}, {FACTS_FILE}") if facts.task else self.task
        if task.refines != self.task.name:
            return self
        known = methods_of(task.name)
        if self.method.name not in known:
            raise UserError(f"--method {self.method.name} is not for {task.name}; choose {', '.join(known)}")
        return dataclasses.replace(self, task=task, method=known[self.method.name], facts=facts)

    def determining(self) -> dict[str, Any]:
        """Everything that results depend on, by name, besides the weights."""
        parts = (self.data, self.settings, self.loading, self.run)
        return {name: value for part in parts for name, value in part.determining().items()}


def parse_evaluations(
    doc: str,
    task_name: str,
    data: type[DataT],
    *,
    method: str,
    several: bool = False,
    sample: Mapping[str, Any] | None = None,
    **defaults: Any,
) -> list[Evaluation[DataT]]:
    """The evaluations that a command line asks for: one, or with `several` one for each method named.

    Args:
        doc: of the script: a line, and examples. data: the script's own settings of its images.
        method: the default. defaults: of other options, in place of those of their settings.
        sample: settings of the method for the embedded default, where no option says otherwise.

    Raises:
        UserError: options that do not fit.
    """
    methods = methods_of(task_name)
    parser = Parser(doc)
    parser.add("data", data, **defaults)
    parser.add_argument("--method", choices=list(methods), nargs="+" if several else None, help=f"(default {method})")
    parser.add("inference", *dict.fromkeys(m.settings_class for m in methods.values()), **defaults)
    parser.add("model", *dict.fromkeys(m.loading_class for m in methods.values()))
    parser.add("evaluation", BatchSettings, RunSettings, **defaults)
    options = parser.read()
    own = take(options, data)
    embedded = {} if own.dataset_root else {n: v for n, v in (sample or {}).items() if not hasattr(options, n)}
    named = options.method or method
    found = []
    for chosen in (methods[name] for name in (named if isinstance(named, list) else [named])):
        if not several:
            classes = {c for m in methods.values() for c in (m.settings_class, m.loading_class)}
            note_idle(options, classes, (chosen.settings_class, chosen.loading_class), f"with --method {chosen.name}")
        found.append(
            Evaluation(
                task=find_task(task_name),
                method=chosen,
                settings=take(options, chosen.settings_class, **embedded),
                loading=take(options, chosen.loading_class),
                data=own,
                batching=take(options, BatchSettings),
                run=take(options, RunSettings),
            )
        )
    return found


def run_evaluation(evaluation: Evaluation[DataT], load_groups: Callable[[Evaluation[DataT]], Groups]) -> None:
    """Read the images, load the model, infer, and print the table; mistakes show in this order.

    Args:
        load_groups: the images by group.

    Raises:
        UserError, DataError, ModelError: a mistake of the user, in one line.
    """
    e = evaluation.refined()
    say("; ".join(text for text in (f"Method: {e.method.about}", e.method.paper) if text))
    check_counts_known(e)
    groups = load_groups(e)
    checkpoint = e.checkpoint()
    for note in dict.fromkeys(note for dataset in groups.values() for note in dataset.notes()):
        say(note)
    for name, dataset in groups.items():
        if dataset.num_skipped:
            say(f"{name}: {dataset.num_skipped} unreadable images left out")
    names = e.data.names or e.task.names(next(iter(groups.values())))
    e.method.check(e.settings, names)
    device = choose_device(e.run)
    model = e.method.load(checkpoint, e.loading, device, e.run.mixed_precision)
    check_model(e, model, names, checkpoint)
    method = e.method(model, e.settings, names, usable_precision(e.run.mixed_precision, device))
    e = dataclasses.replace(e, settings=method.settings)  # with what the checkpoint's facts say
    set_resolution(e.data.resolution or model.resolution, method, groups)
    if e.run.dry_run:
        return describe_evaluation(e, method, groups)
    if e.run.compile:
        compile_where_right(model, gradients=e.task.cond_size(names) is not None)
    summary = evaluate(
        method,
        e.task,
        groups,
        e.results_dir,
        options={**e.determining(), "weights": weights_fingerprint(model)},
        checkpoint=checkpoint,
        batching=e.batching,
        num_objects=e.data.num_known,
    )
    if summary:
        finish(summary, e, method, groups)


def open_groups(
    asked: Sequence[tuple[int, int]] | None,
    defaults: Sequence[tuple[int, int]],
    open_one: Callable[..., Any],
    splits: Sequence[str],
) -> Groups:
    """The images of each range of numbers, named "3-5", of several splits "valA/3-5".

    A default range that the data lack is left out with a line.

    Args:
        open_one: (split, range) -> dataset.

    Raises:
        NothingAsked: a range that was asked for, or every default, is not in the data.
    """
    groups: dict[str, Any] = {}
    missing: list[NothingAsked] = []
    for split, counts in itertools.product(dict.fromkeys(splits), asked or defaults):
        numbers = "-".join(map(str, counts))
        try:
            groups[numbers if len(splits) == 1 else f"{split}/{numbers}"] = open_one(split, counts)
        except NothingAsked as error:
            if asked:
                raise
            missing.append(error)
    if not groups:
        raise missing[0]
    for left_out in missing:
        say(f"{left_out}; left out, being a default")
    return groups


def check_counts_known(evaluation: Evaluation) -> None:
    """Raise UserError where the method needs the number of concepts, and nobody knows it."""
    known = evaluation.data.labelled or evaluation.data.num_known is not None
    if not known and not evaluation.method.seeks_count(evaluation.settings):
        raise UserError("--images: nobody knows their number of objects; add --count infer, or --num_objects K")


def finish(summary: Mapping[str, Any], evaluation: Evaluation, method: Method, groups: Groups) -> None:
    """Print the table, draw the figures from the records, and say where everything is."""
    folder = evaluation.results_dir
    answers = format_answers(folder, summary)
    parts = ([answers] if answers else []) + [format_table(summary), f"Records and summary: {folder}"]
    print("\n" + "\n\n".join(parts))
    for name, group in summary["groups"].items():
        warn_of_unlike(group["num_unlike"] or 0, group["num_images"], f"{name}: ", " (`unlike` in results.jsonl)")
    if not evaluation.run.no_figures:
        paths = redraw(folder)
        print("Figures: " + " ".join(str(path) for path in paths))
    for name, dataset in groups.items():
        method.illustrate(dataset, name, folder / "figures")


def choose_device(run: RunSettings) -> torch.device:
    """The device asked for, or else this process's best one."""
    torch.backends.cuda.matmul.allow_tf32 = run.allow_tf32
    on_cpu = run.device == "cpu" or not torch.accelerator.is_available()
    state = PartialState(cpu=on_cpu) if "RANK" in os.environ else None
    return state.device if state and not run.device else find_device(run.device)


def check_model(evaluation: Evaluation, model: Any, names: tuple[str, ...], checkpoint: str) -> None:
    """Raise ModelError where a checkpoint is of another task, method or size than the evaluation's."""
    e = evaluation
    size = e.task.cond_size(names)
    if size is not None and model.cond_size != size:
        raise ModelError(
            f"--checkpoint {checkpoint} takes conditions of size {model.cond_size}, this task's have {size}; "
            "name a checkpoint of this task"
        )
    if model.facts.task not in (None, e.task.name):
        raise ModelError(
            f"--checkpoint {checkpoint} was trained for {model.facts.task}, this needs {e.task.name}; name another"
        )
    if model.facts.learner != e.method.learner:
        raise ModelError(
            f"--checkpoint {checkpoint} was trained as {model.facts.learner}, --method {e.method.name} needs "
            f"{e.method.learner}; name another, or another --method"
        )
    e.task.check_facts(model.facts, names, checkpoint)


def set_resolution(resolution: int, method: Method, groups: Groups) -> None:
    """Read images at a resolution.

    Raises:
        ModelError: the network cannot take it.
    """
    method.check_resolution(resolution)
    for dataset in groups.values():
        dataset.resolution = resolution


def describe_evaluation(evaluation: Evaluation, method: Method, groups: Groups) -> None:
    """What --dry_run prints of an evaluation."""
    e = evaluation
    rows = e.batching.batch_size or method.rows_at_once
    memory = memory_estimate(method.model, rows, e.batching.images_per_batch, e.run.mixed_precision)
    parts = (e.data, e.settings, e.loading, e.batching, e.run)
    options = {name: value for part in parts for name, value in dataclasses.asdict(part).items()}
    counts = {name: len(dataset) for name, dataset in groups.items()}
    describe({"method": e.method.name, **options}, counts, parts_of(method.model), memory)
