"""The six commands of the top level, so that an installed copy has them too (igm-eval-clevr, ...).

In a checkout the modules here are links to the scripts at the top level; in a wheel they are the files themselves.
"""

import importlib

from igm.cli.launch import run
from igm.data import DataError


def _run(name: str) -> None:
    run(importlib.import_module(f"igm.commands.{name}").main, DataError)


def run_train_clevr() -> None:
    """`igm-train-clevr`."""
    _run("train_clevr")


def run_train_celeba() -> None:
    """`igm-train-celeba`."""
    _run("train_celeba")


def run_eval_clevr() -> None:
    """`igm-eval-clevr`."""
    _run("eval_clevr")


def run_eval_celeba() -> None:
    """`igm-eval-celeba`."""
    _run("eval_celeba")


def run_eval_animal() -> None:
    """`igm-eval-animal`."""
    _run("eval_animal")


def run_generate() -> None:
    """`igm-generate`."""
    _run("generate")
