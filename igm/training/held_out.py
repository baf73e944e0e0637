"""The error on held-out images while a training runs, on the same timesteps and noise every time, so that curves compare.

Nothing here touches the training's random numbers, and its lines go on where a resumed run goes on.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from igm.files import replace_text
from igm.inference.method import Method, methods_of
from igm.models.codec import Codec
from igm.tasks import find_task
from igm.training.batches import StepNoise, step_generator
from igm.training.learner import Batch, Item, Learner, measuring
from igm.training.settings import TrainSettings

VALIDATION_FILE = "validation.jsonl"  # in the run's folder: a line for each validation
NUM_RANGES = 4  # parts of the timesteps, of equal length; every image has one draw in each
FOUND_IMAGES = 16  # images of which --validation_found infers the concepts
STREAM = 7  # of the step's generators: far from those of training
Values = dict[str, float]


class HeldOut:
    """Measures a learner on held-out items; every process calls it with the step, and all get the same values.

    Values: `val_error`, mean error over images and draws, and `val_error_t<low>-<high>`, in each quarter of the timesteps
    (the latter where the learner draws timesteps); `shuffled_gap`, by how much the error rises when every image gets
    the conditions of another (where the learner sees conditions: about 0 says that it does not use them); `val_found`
    on request, the task's headline share on the first 16 items, as the task's default method infers them.

    Args:
        items: as `encoded` gives them. folder: of the run; `validation.jsonl` goes there.
        pictures: the first items with their pixels, of which the concepts are inferred; none: they are not.
        names: of what a concept can be, where it has names.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        learner: Learner,
        items: Sequence[Item],
        folder: Path,
        settings: TrainSettings,
        pictures: Sequence[Item] = (),
        names: Sequence[str] = (),
    ):
        self.accelerator, self.learner, self.items, self.settings = accelerator, learner, items, settings
        self.path, self.pictures = Path(folder) / VALIDATION_FILE, pictures[:FOUND_IMAGES]
        self.inference = Inference(learner, names) if pictures else None
        self.noise, self.bounds = held_out_noise(learner, items, settings)

    def begin(self, step: int) -> None:
        """Drop the lines of steps that are still to come, and measure this one if a kill came between.

        Called once, with the weights of the step that the run begins at.
        """
        lines: dict[int, Mapping[str, Any]] = {}
        if self.accelerator.is_main_process and self.path.exists():
            lines = {line["step"]: line for line in read_lines(self.path) if line["step"] <= step}
            replace_text(self.path, "".join(json.dumps(line) + "\n" for line in lines.values()))
        due = step > 0 and (step % self.settings.validation_steps == 0 or step == self.settings.num_steps)
        missing = torch.tensor(float(due and step not in lines and self.accelerator.is_main_process))
        if self.accelerator.reduce(missing.to(self.accelerator.device), "sum").item():
            self(step)

    def __call__(self, step: int) -> Values:
        """Measure, and append a line."""
        with measuring(self.accelerator, self.learner):
            values = self.errors()
            if self.inference is not None:
                values["val_found"] = self.found()
        if self.accelerator.is_main_process:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
        return values

    @torch.no_grad()
    def errors(self) -> Values:
        """Errors over all images and draws."""
        per_range = self.mean_errors(self.items)  # (R,)
        values = {"val_error": per_range.mean().item()}
        for low, high, error in zip(self.bounds, self.bounds[1:], per_range.tolist(), strict=False):
            values[f"val_error_t{low}-{high}"] = error
        if self.learner.sees_conds and len(self.items) > 1:
            others = [*self.items[1:], self.items[0]]
            swapped = [{**own, **concepts_of(other)} for own, other in zip(self.items, others, strict=True)]
            values["shuffled_gap"] = self.mean_errors(swapped).mean().item() - values["val_error"]
        return values

    def mean_errors(self, items: Sequence[Item]) -> torch.Tensor:
        """Mean error (R,) of the items in each range of timesteps; the batches are shared out over the processes."""
        size, device = self.settings.train_batch_size, self.accelerator.device
        sums = torch.zeros(max(1, len(self.bounds) - 1), device=device)  # (R,)
        parts = [(r, first) for r in range(len(sums)) for first in range(0, len(items), size)]
        for r, first in parts[self.accelerator.process_index :: self.accelerator.num_processes]:
            rows = slice(first, min(first + size, len(items)))
            noise = {name: value[r, rows] for name, value in self.noise.items()}
            batch = {name: v.to(device) for name, v in {**self.learner.collate(items[rows]), **noise}.items()}
            error = self.learner.held_out_error(batch)  # (b,), or one number for all of them
            sums[r] += error.float().mean() * (rows.stop - rows.start)
        return self.accelerator.reduce(sums, "sum").cpu() / len(items)

    def found(self) -> float:
        """The headline share of the pictures, their number of concepts known, which the processes share out."""
        inference: Any = self.inference
        right = torch.zeros(2)
        for i in range(self.accelerator.process_index, len(self.pictures), self.accelerator.num_processes):
            right += torch.tensor(inference.score(self.pictures[i], i))
        right = self.accelerator.reduce(right.to(self.accelerator.device), "sum").cpu()
        return (right[0] / right[1]).item()


def held_out_noise(learner: Learner, items: Sequence[Item], settings: TrainSettings) -> tuple[Batch, list[int]]:
    """What each draw of each item adds to its batch, (R, N, ...) by name; and the bounds (R + 1) of the timesteps' ranges.

    Timesteps are stratified within a range, in random order, whatever density the training draws them from. A learner
    without timesteps has one draw, and no bounds.
    """
    noise, n = learner.noise(items[0], settings), len(items)
    if noise is None:
        return {}, []
    generator = step_generator(settings.seed, 0, STREAM)
    if not isinstance(noise, StepNoise):
        return {name: value[None] for name, value in noise.draw(n, generator).items()}, []
    bounds = [r * noise.num_timesteps // NUM_RANGES for r in range(NUM_RANGES + 1)]
    draws = []
    for low, high in zip(bounds, bounds[1:], strict=False):
        share = (torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)) / n  # (N,)
        own = noise.draw(n, generator)
        draws.append({**own, "t": (low + share * (high - low)).long().clamp(max=high - 1)})
    return {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}, bounds


@torch.no_grad()
def encoded(items: Sequence[Item], codec: Codec | None, device: torch.device, batch_size: int) -> list[Item]:
    """Items whose pixels are replaced by their posterior; as they are where there is no codec, or nothing to encode."""
    if codec is None or "pixel_values" not in items[0]:
        return list(items)
    found: list[Item] = []
    for first in range(0, len(items), batch_size):
        part = items[first : first + batch_size]
        images = torch.stack([item["pixel_values"] for item in part]).to(device)
        mean, std = (value.float().cpu() for value in codec.posterior(images))  # (b, C, H, W) each
        rest = [{name: value for name, value in item.items() if name != "pixel_values"} for item in part]
        found += [{**r, "posterior_mean": m, "posterior_std": s} for r, m, s in zip(rest, mean, std, strict=True)]
    return found


def concepts_of(item: Item) -> dict[str, Any]:
    """What an item says of its concepts."""
    return {name: item[name] for name in ("conds", "mask")}


def read_lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """The lines of an earlier start; a torn one is left out."""
    if not path.exists():
        return
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            line = json.loads(text)
            if isinstance(line, dict) and type(line.get("step")) is int:
                yield line


class Inference:
    """Infers and scores single items with the network in training.

    Raises:
        ValueError: no method infers what this learner learns.
    """

    def __init__(self, learner: Learner, names: Sequence[str]):
        self.task, self.names, self.learner = find_task(learner.facts.task), tuple(names), learner
        method = method_for(learner)
        if method is None:
            raise ValueError(f"no method infers what learner {learner.name!r} learns")
        self.method = method

    def score(self, item: Item, number: int) -> tuple[float, float]:
        """The item's part of the task's headline score: what is right, of how much."""
        model: Any = self.learner.inference_model()
        method = self.method(model, self.method.settings_class(), self.names)
        count = int(item["mask"].sum())
        with frozen(model.network):
            found = method(item["pixel_values"][None], torch.tensor([count]), image_numbers=[number])
        pred = found.conds[0, : int(found.num_concepts[0])].tolist()
        true = item["conds"][item["mask"] > 0].tolist()
        record = {"conds_true": true, "conds_pred": pred, "num_true": count, "num_pred": len(pred)}
        right, of = self.task.headline([{**record, **self.task.record(found, 0, self.names)}])
        return float(right[0]), float(of[0])


def method_for(learner: Learner) -> type[Method] | None:
    """The method that infers with a learner's network; None where there is none.

    Of several that which says how to get the paper's own, because it is the quick one.
    """
    if learner.inference_model() is None:
        return None
    known = [m for m in methods_of(find_task(learner.facts.task).name).values() if m.learner == learner.name]
    return min(known, key=lambda method: not method.paper, default=None)


@contextlib.contextmanager
def frozen(network: torch.nn.Module) -> Iterator[None]:
    """No gradient reaches the network's parameters: those of inference are for the concepts."""
    trained = [p for p in network.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
