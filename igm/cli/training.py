"""From a command line to a training: the options that the training scripts share."""

import argparse
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from igm import say, warn
from igm.cli.options import Parser, take
from igm.data import DataError
from igm.resources import CONFIGS
from igm.training.learner import RARE_OPTIONS, find_learner
from igm.training.publish import check_token
from igm.training.settings import DataSettings, ModelSettings, ReportSettings, RunSettings, TrainSettings
from igm.training.start import Job

GROUPS = {
    "model": ModelSettings,
    "training": TrainSettings,
    "reports and validation": ReportSettings,
    "run": RunSettings,
}
Data = TypeVar("Data", bound=DataSettings)


def read_training(
    doc: str, data: type[Data], config: str, *, task: str | None = None, **defaults: Any
) -> tuple[Data, Job]:
    """The settings of a training script, of its command line and of the file that `--config` names.

    Args:
        doc: of the script: its title, and its examples. data: settings of its dataset.
        config: folder under configs/ that network and schedule come from. defaults: of options, in place of the settings'.
        task: kind of the concepts, whose learners `--learner` may name besides those for any kind.

    Raises:
        UserError: an option without sense.
    """
    place = CONFIGS / config
    defaults |= {
        "unet_config": str(place / "unet"),
        "scheduler_config": str(place / "scheduler" / "scheduler_config.json"),
    }
    parser = make_parser(doc, data, defaults)
    options = parser.read()
    learner = find_learner(vars(options).get("learner", "compositional"), task)
    if learner.suffix:
        defaults["tracker_project_name"] = f"{defaults['tracker_project_name']}-{learner.suffix}"
    defaults |= learner.defaults
    if learner.defaults or learner.suffix:
        parser = make_parser(doc, data, defaults)
        options = parser.read()
    idle = learner.idle_options | (RARE_OPTIONS - learner.rare_options)
    note_idle(options, idle, defaults, learner.name)
    parts = {group: take(options, group) for group in (data, *GROUPS.values())}
    check_token(parts[RunSettings], parts[ReportSettings])
    resolved = {name: value for part in parts.values() for name, value in part.public().items()}
    job = Job(learner, parts[ModelSettings], parts[TrainSettings], parts[ReportSettings], parts[RunSettings], resolved)
    return parts[data], job


def or_training(dataset: Any, open_validation: Callable[[], Any]) -> Any:
    """Images for the validation pictures: the val split's, or training ones, and that is said, where it cannot be had."""
    try:
        return open_validation()
    except DataError as error:
        say(f"Validation pictures show training images: {error}")
        return dataset


def make_parser(doc: str, data: type[DataSettings], defaults: Mapping[str, Any]) -> Parser:
    """A parser of all groups."""
    parser = Parser(doc)
    for title, group in {"data": data, **GROUPS}.items():
        parser.add(title, group, **defaults)
    return parser


def note_idle(options: argparse.Namespace, idle: frozenset[str], defaults: Mapping[str, Any], name: str) -> None:
    """Say which given options have no effect on what is trained; one that asks for nothing needs none."""
    for option in sorted(idle & vars(options).keys()):
        value = getattr(options, option)
        if value and value != defaults.get(option, dataclasses.MISSING):
            warn(f"--{option} has no effect on --learner {name}")
