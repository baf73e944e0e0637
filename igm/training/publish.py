"""Models on the hub: a training's last checkpoint, or one that is loaded."""

import dataclasses
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from igm import UserError, say, warn
from igm.facts import FACTS_FILE, Facts
from igm.files import replace_json
from igm.hub import EMA_DIR, NETWORK_DIR
from igm.models import ModelError
from igm.provenance import without_tokens
from igm.publishing import create_repository, model_card, upload
from igm.training.export import tidy_configs
from igm.training.learner import Learner
from igm.training.settings import ReportSettings, RunSettings

OF_A_MODEL = (NETWORK_DIR, EMA_DIR, "scheduler")  # folders of a checkpoint that inference reads


def check_token(run: RunSettings, report: ReportSettings) -> None:
    """Raise UserError where a tracker would record the token."""
    if run.hub_token and report.report_to in ("wandb", "all"):
        raise UserError(
            "--hub_token would be recorded by wandb, which keeps the command line; log in with hf auth login instead, or "
            "choose --report_to tensorboard or none"
        )


def publish(learner: Learner, checkpoint: Path, repo: str, token: str | None, command: Sequence[str]) -> None:
    """Upload a checkpoint, without the state of the training, and with the codec where that is a folder of this machine.

    Raises:
        ModelError: the hub does not take it; the checkpoint is kept, and the line says how to push it later.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in OF_A_MODEL:
            if (checkpoint / name).is_dir():
                shutil.copytree(checkpoint / name, folder / name)
        facts = Facts.read(checkpoint)
        if learner.codec is not None and (facts.codec is None or Path(facts.codec).is_dir()):
            learner.codec.save_pretrained(folder / "vae")
            facts = dataclasses.replace(facts, codec=None)
        replace_json(folder / FACTS_FILE, facts.to_json())
        tidy_configs(folder)
        card = model_card(facts, repo, command=["python", *without_tokens(command)])
        try:
            say(f"Pushed to {upload(folder, repo, card, token, f'{checkpoint.name} of a training')}")
        except ModelError as error:
            later = f'igm.api.load_model("{checkpoint}").push_to_hub("{repo}")'
            raise ModelError(f"{error}; {checkpoint} is complete, push it later: {later}") from None


def publish_model(
    model: Any,
    facts: Facts,
    repo: str,
    *,
    token: str | None = None,
    private: bool | None = None,
    license: str = "other",
    datasets: Sequence[str] = (),
) -> str:
    """Upload a denoiser with these facts, and a card where the repository has none; return the repository's address.

    A partner that is a folder of this machine is left out, which is said: nobody else finds it there.

    Raises:
        ModelError: it may not be written, or the hub is out of reach.
    """
    if facts.partner is not None and Path(facts.partner).is_dir():
        warn(
            f"the partner {facts.partner} is a folder of this machine, and is left out; push it, and name its repository"
        )
        facts = dataclasses.replace(facts, partner=None)
    repo = create_repository(repo, token, private)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        replace_json(Path(folder) / FACTS_FILE, facts.to_json())
        tidy_configs(folder)
        return upload(Path(folder), repo, model_card(facts, repo, license, datasets), token)
