"""Training checkpoints: `<output_dir>/checkpoint-<step>/`, always complete, because they get that name last.

Contents:
    unet2dconditionmodel/        the network in diffusers format, as the published code writes it
    unet2dconditionmodel_ema/    its running average, if kept
    scheduler/  igm.json         noise schedule, and facts that inference uses
    optimizer.bin ...            what accelerate needs to go on; read as plain tensors and numbers, nothing else
    training.json                step, what a resumed run must share, and what made it

A checkpoint is this program's own if it has a training.json. Others, such as the published ones, are left as they are.
"""

import dataclasses
import errno
import json
import math
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError, safe_open

from igm import UserError, warn
from igm.files import replace_json, write_through
from igm.hub import EMA_DIR, NETWORK_DIR
from igm.models import ModelError
from igm.models.checkpoint import load_network
from igm.models.unet import one_line, read_config
from igm.models.weights import check_finite, find_weights, read_shapes
from igm.settings import shortened
from igm.training.faults import TrainingError
from igm.training.learner import Learner, bare
from igm.training.settings import TrainSettings

STATE_FILE = "training.json"
# Options whose change at a resume is said; what is not here is compared, or changes no numbers, or is a place.
NAMED_BY_OTHERS = {"seed", "train_batch_size", "gradient_accumulation_steps", "max_train_steps", "num_train_epochs"}
MATTERS = {f.name for f in dataclasses.fields(TrainSettings) if f.metadata["determines"]} - NAMED_BY_OTHERS


def list_checkpoints(folder: str | Path) -> list[Path]:
    """Folders `checkpoint-<step>` of a run, oldest first by step; whoever made them."""
    found = [p for p in Path(folder).glob("checkpoint-*") if step_of(p) is not None and p.is_dir()]
    return sorted(found, key=lambda p: step_of(p) or 0)


def step_of(checkpoint: Path) -> int | None:
    """The step in a checkpoint's name."""
    digits = checkpoint.name.removeprefix("checkpoint-")
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 19 else None


def is_own(checkpoint: Path) -> bool:
    """Whether this program wrote a checkpoint, so that it can go on from it."""
    return (checkpoint / STATE_FILE).is_file()


def has_weights(checkpoint: Path) -> bool:
    """Whether a folder holds weights, in any form."""
    return any(any(checkpoint.rglob(pattern)) for pattern in ("*.safetensors", "*.bin"))


def find_checkpoint(folder: str | Path, name: str) -> Path | None:
    """Resolve `--resume_from_checkpoint`: "latest" (None if there is none yet), a path, or a folder name in the run.

    Raises:
        ModelError: a named checkpoint does not exist, or cannot be resumed; nor can any that there are.
    """
    if name == "latest":
        return find_latest(Path(folder))
    for place in (Path(name), Path(folder) / name):
        if is_own(place):
            if (fault := weights_fault(place)) is not None:
                raise ModelError(f"--resume_from_checkpoint {name}: {fault}")
            return place
        if place.is_dir() and has_weights(place):
            raise cannot_resume(place, f"--resume_from_checkpoint {name}")
    raise ModelError(f"--resume_from_checkpoint {name}: no complete checkpoint there; use 'latest' or a path")


def find_latest(folder: Path) -> Path | None:
    """The newest checkpoint of this program whose weights are whole and finite; None where nothing was trained yet.

    Raises:
        ModelError: there are checkpoints, but none to go on from.
    """
    there = [p for p in reversed(list_checkpoints(folder)) if is_own(p) or has_weights(p)]
    own, foreign = [p for p in there if is_own(p)], [p for p in there if not is_own(p)]
    for checkpoint in own:
        fault = weights_fault(checkpoint)
        if fault is None:
            if foreign:
                warn(f"{foreign[0]} has no {STATE_FILE} and is left as it is; going on from {checkpoint}")
            return checkpoint
        warn(f"{checkpoint} is passed over: {fault}")
    if own:
        raise ModelError(
            f"--resume_from_checkpoint latest: {weights_fault(own[0])}, and no older checkpoint in {folder} is whole; "
            "remove them to start afresh"
        )
    if foreign:
        raise cannot_resume(foreign[0], "--resume_from_checkpoint latest")
    return None


def cannot_resume(checkpoint: Path, option: str) -> ModelError:
    """The error that says why a checkpoint of another program cannot be resumed, and the way out."""
    return ModelError(
        f"{option}: {checkpoint} holds weights without the state of a training ({STATE_FILE}), as published ones do; "
        f"start from them with --initialize_from {checkpoint} and another --tracker_project_name"
    )


def weights_fault(checkpoint: Path) -> str | None:
    """Why a checkpoint's weights cannot be used, in words; None if all are there and finite."""
    average = [checkpoint / EMA_DIR] if (checkpoint / EMA_DIR).is_dir() else []
    try:
        for place in [checkpoint / NETWORK_DIR, *average]:
            files = find_weights(place, "checkpoint")
            read_shapes(files, "checkpoint")
            for file in files:
                with safe_open(file, "pt") as tensors:
                    check_finite({name: tensors.get_tensor(name) for name in tensors.keys()}, f"checkpoint {file}")
    except ModelError as error:
        return str(error)
    return None


class Checkpoints:
    """Writes and reads the checkpoints of one run.

    Args:
        learner, optimizer, ema: what is saved; prepared by the accelerator.
        folder: where they go. total_limit: keep only the newest so many of this run.
        facts: what a resumed run must share: task, architecture, dataset, batch, seed.
        made_by: options, command and versions, kept in each.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        learner: Learner,
        optimizer: torch.optim.Optimizer,
        ema: EMAModel | None,
        folder: Path,
        facts: Mapping[str, Any],
        made_by: Mapping[str, Any],
        total_limit: int | None = None,
    ):
        self.accelerator, self.learner, self.optimizer, self.ema = accelerator, learner, optimizer, ema
        self.folder, self.facts, self.made_by, self.total_limit = folder, facts, made_by, total_limit
        self.run: str | None = secrets.token_hex(8)  # the same for every checkpoint of a run, resumed or not
        accelerator.register_save_state_pre_hook(self._save_network)
        accelerator.register_load_state_pre_hook(self._load_network)

    def _save_network(self, models: list[Any], weights: list[Any], output_dir: str) -> None:
        if self.accelerator.is_main_process:
            self.learner.save(Path(output_dir))
            if self.ema is not None:
                self.ema.save_pretrained(Path(output_dir) / EMA_DIR)
        weights.clear()

    def _load_network(self, models: list[Any], input_dir: str) -> None:
        network = bare(self.learner.network)
        network.load_state_dict(load_network(Path(input_dir), ema=False).state_dict())
        models.clear()
        if self.ema is None:
            return
        folder, state = Path(input_dir) / EMA_DIR, {}
        if folder.is_dir():
            state["optimization_step"] = read_config(folder, "--resume_from_checkpoint").get("optimization_step")
            network = load_network(folder, ema=False)
        else:
            warn(f"{input_dir} has no running average; it starts from the weights")
        state["shadow_params"] = averaged = [p.detach().clone() for p in network.parameters()]
        if [p.shape for p in averaged] != [p.shape for p in self.ema.shadow_params]:
            raise ModelError(f"{folder} is of another network")
        self.ema.load_state_dict(state)
        self.ema.to(self.accelerator.device)

    def begin(self, settings: TrainSettings) -> int:
        """The step to begin at: that of the checkpoint to go on from, or 0.

        Raises:
            ModelError: that one is of another run, or cannot be read. UserError: one to come would replace another's.
        """
        name, num_steps = settings.resume_from_checkpoint, settings.num_steps
        step = self.resume(name, num_steps) if name else 0
        self.check_names(step, num_steps, settings.checkpointing_steps)
        return step

    def resume(self, name: str, num_steps: int) -> int:
        """Go on from the checkpoint that `--resume_from_checkpoint` names; return its step, 0 if there is none yet.

        Raises:
            ModelError: it is of another run, or cannot be read.
        """
        path = find_checkpoint(self.folder, name)
        if path is None:
            return 0
        state = check_same_run(path, self.facts, self.accelerator.num_processes)
        self._note_changes(path, state)
        asked = [{name: v for name, v in group.items() if name != "params"} for group in self.optimizer.param_groups]
        try:
            self.accelerator.load_state(str(path))
            check_optimizer(self.optimizer)
        except (
            Exception
        ) as error:  # torch, pickle, safetensors and diffusers raise many kinds for files that do not fit
            raise ModelError(f"{path} cannot be resumed ({one_line(error)}); name another checkpoint") from None
        for group, own in zip(self.optimizer.param_groups, asked, strict=True):
            group.update(own)  # the options, not what they once were
        self.accelerator.step = 0  # micro-steps are counted from here
        self.run = state.get("run")
        self.accelerator.print(f"Resumed {path} at step {state['step']} of {num_steps}")
        return state["step"]

    def _note_changes(self, path: Path, state: Mapping[str, Any]) -> None:
        """Say what is not as it was; the number of images per step first."""
        now, processes = self.facts["images_per_step"], self.accelerator.num_processes
        before = state.get("images_per_step", now)
        if before != now:
            warn(
                f"{path} was trained by {state['num_processes']} processes with {before} images "
                f"per step, now {processes} with {now}: training goes on, but in "
                "another data order (some images of this epoch may be seen twice or not at all)"
            )
        options, former = plain(self.made_by.get("options", {})), state.get("options")
        if isinstance(former, dict):
            both = sorted(MATTERS & options.keys() & former.keys())
            changed = [f"{n} {shortened(str(former[n]))} -> {options[n]}" for n in both if former[n] != options[n]]
            if changed:
                self.accelerator.print(f"note: {path} was trained with other settings: {', '.join(changed)}")

    def check_names(self, step: int, num_steps: int, every: int) -> None:
        """Raise UserError if a checkpoint to come would take the place of something that this program did not write."""
        if not self.accelerator.is_main_process or step >= num_steps:
            return
        for place in self.folder.glob("checkpoint-*"):
            number = step_of(place)
            if number is None or not step < number <= num_steps or (number % every and number != num_steps):
                continue
            if place.is_symlink() or not (is_own(place) or (place.is_dir() and not any(place.iterdir()))):
                raise UserError(
                    f"{place} was not written by this program and would be replaced at step {number}; "
                    "choose another --tracker_project_name or --output_dir"
                )

    def save(self, step: int) -> Path:
        """Write `checkpoint-<step>` under a temporary name, rename it, then remove the oldest beyond the limit.

        Every process calls it. The older checkpoints are untouched until the new one is complete and on the disk.

        Raises:
            TrainingError: a weight is not finite; nothing is written.
            OSError: the disk is full or the folder cannot be written; what was half-written is removed.
        """
        if wrong := next((n for n, p in self.learner.network.named_parameters() if not bool(p.isfinite().all())), None):
            raise TrainingError(
                f"weights of {wrong} are not finite after step {step}; the last checkpoint is kept; lower --learning_rate "
                "or --adam_weight_decay"
            )
        main = self.accelerator.is_main_process
        final = self.folder / f"checkpoint-{step}"
        token = [secrets.token_hex(16)]
        broadcast_object_list(token)  # the main process's, for all
        temporary = self.folder / f".{final.name}.{token[0]}.partial"
        if main:
            self.folder.mkdir(parents=True, exist_ok=True)
            for rest in (*self.folder.glob(".checkpoint-*.partial"), *self.folder.glob(".checkpoint-*.removed")):
                remove_tree(rest)  # of a killed run
            temporary.mkdir()  # nobody's yet: fails where somebody guessed the name
        try:
            self.accelerator.wait_for_everyone()
            self.accelerator.save_state(str(temporary))
            if main:
                replace_json(temporary / STATE_FILE, self._state(step))
            self.accelerator.wait_for_everyone()
            if main:
                for path in sorted(temporary.rglob("*"), reverse=True):
                    write_through(path)
                write_through(temporary)
                remove(final)  # an earlier run's, when training starts afresh in the same folder
                os.replace(temporary, final)
        except BaseException as error:
            remove_tree(temporary)
            of_loader = str(error).startswith("DataLoader worker")  # torch tells of their end wherever it comes
            if isinstance(error, SafetensorError | RuntimeError) and not of_loader:  # how these report a full disk
                raise OSError(errno.EIO, f"checkpoint not written ({one_line(error)})", str(temporary)) from error
            raise
        if main:
            self._rotate(final)
        self.accelerator.wait_for_everyone()
        return final

    def _state(self, step: int) -> dict[str, Any]:
        state = {"step": step, "run": self.run, **self.facts, "num_processes": self.accelerator.num_processes}
        return plain({**state, **self.made_by})

    def _rotate(self, newest: Path) -> None:
        """Remove the oldest checkpoints of this run beyond the limit; those of others stay."""
        if self.total_limit:
            others = [p for p in list_checkpoints(self.folder) if p != newest and self._is_of_this_run(p)]
            for old in others[: max(0, len(others) + 1 - self.total_limit)]:
                remove(old)

    def _is_of_this_run(self, checkpoint: Path) -> bool:
        try:
            state = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return False
        return isinstance(state, dict) and state.get("run") == self.run and state.get("step") == step_of(checkpoint)


def check_same_run(path: Path, facts: Mapping[str, Any], num_processes: int) -> dict[str, Any]:
    """What `training.json` of a checkpoint says. Another number of processes may make another number of images per step.

    Raises:
        ModelError: it cannot be used, or differs from `facts`; one line with what differs.
    """
    state = read_config(path / STATE_FILE, "--resume_from_checkpoint")
    for name in ("step", "images_per_step", "num_processes"):
        value = state.get(name, 1 if name == "images_per_step" else None)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ModelError(f"{path / STATE_FILE}: {name} is {shortened(str(value))}; name another checkpoint")
    for name, value in plain(facts).items():  # as they were written: tuples are lists
        old = state.get(name, value)
        if name == "images_per_step" and state["num_processes"] != num_processes:
            continue
        if isinstance(value, dict) and isinstance(old, dict):
            differing = [key for key in value if old.get(key, value[key]) != value[key]]
            name = f"{name}: {', '.join(differing)}"
            old, value = [old[key] for key in differing], [value[key] for key in differing]
        if old != value:
            old, value = (shortened(str(side), 200) for side in (old, value))
            raise ModelError(f"{path} was trained with {name} = {old}, now {value}; use the same, or start afresh")
    return state


def plain(value: Any) -> Any:
    """A value as JSON has it: tuples as lists, and what JSON does not know as text."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    known = value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))
    return value if known else str(value)


def check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Raise ModelError unless the optimizer's state fits its parameters, and is finite."""
    held = [
        (p, optimizer.state[p]) for group in optimizer.param_groups for p in group["params"] if p in optimizer.state
    ]
    if not held or not all("step" in state for _, state in held):
        raise ModelError("the optimizer's state is missing")
    for parameter, state in held:
        for value in (v for name, v in state.items() if name in ("exp_avg", "exp_avg_sq")):  # 8-bit Adam has others
            if not isinstance(value, torch.Tensor) or value.shape != parameter.shape or not value.isfinite().all():
                raise ModelError("the optimizer's state does not fit the network, or is not finite")


def remove(checkpoint: Path) -> None:
    """Delete a checkpoint; killed on the way, it leaves a hidden folder, never a torn checkpoint."""
    if checkpoint.is_symlink():
        checkpoint.unlink()  # what it leads to is somebody else's
    elif checkpoint.exists():
        hidden = checkpoint.with_name(f".{checkpoint.name}.{secrets.token_hex(16)}.removed")
        os.replace(checkpoint, hidden)
        try:
            remove_tree(hidden)
        except BaseException:  # a signal's: what a loader's end or Ctrl-C raises
            remove_tree(hidden)
            raise


def remove_tree(folder: Path) -> None:
    """Delete a temporary folder, as far as possible; a link of that name, not what it leads to."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)
