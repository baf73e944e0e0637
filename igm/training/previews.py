"""Validation pictures during training: input, each concept's generation, the composed generation."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from igm.composition import predictor
from igm.figures import save_image_grid
from igm.models.denoiser import Denoiser
from igm.models.sampling import CompositionPipeline
from igm.training.learner import Learner, measuring


def validation_pictures(
    denoiser: Denoiser,
    items: Sequence[Mapping[str, Any]],
    *,
    scheduler: str,
    batch_size: int,
    num_inference_steps: int,
    seed: int,
) -> list[list[torch.Tensor]]:
    """One row of pictures (3, R, R) per item: the input, its composed generation, and a generation from each concept alone.

    All generations of an item start from the same noise.

    Args:
        items: dataset items with `pixel_values`, `conds` (K, D), `mask` (K,).
        batch_size: images sampled at once.
    """
    pipeline: Any = CompositionPipeline(denoiser, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    device = denoiser.device
    rows = []
    for number, item in enumerate(items):
        masks = torch.cat([item["mask"][None], torch.diag(item["mask"])])  # all concepts, then each alone: (1 + K, K)
        masks = masks[masks.sum(1) > 0].to(device)
        conds = item["conds"].expand(len(masks), *item["conds"].shape).to(device)  # (1 + K, K, D)
        pictures = []
        for part in torch.arange(len(masks)).split(batch_size):
            predict = predictor(denoiser, conds[part], masks[part])
            generator = torch.Generator().manual_seed(seed + number)
            pictures.append(
                pipeline(predict, len(part), num_inference_steps=num_inference_steps, generator=generator).cpu()
            )
        rows.append([item["pixel_values"], *torch.cat(pictures)])
    return rows


def make_validator(
    accelerator: Accelerator, learner: Learner, items: Sequence[Mapping[str, Any]], output_dir: Path, **sampling: Any
) -> Callable[[int], None]:
    """A function of the step that writes `<output_dir>/validation/step-<step>.png` and sends it to the trackers."""

    def validate(step: int) -> None:
        if accelerator.is_main_process:
            with measuring(accelerator, learner):
                rows = learner.pictures(items, **sampling)
            titles = ["input", "composed"] + [f"concept {k + 1}" for k in range(max(map(len, rows)) - 2)]
            path = Path(output_dir) / "validation" / f"step-{step:06d}.png"
            picture = np.asarray(save_image_grid(rows, path, column_titles=titles))
            for tracker in accelerator.trackers:
                if hasattr(tracker, "log_images"):  # some take numbers only
                    layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                    tracker.log_images({"validation": picture[None]}, step=step, **layout)
        accelerator.wait_for_everyone()

    return validate
