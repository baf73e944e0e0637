"""The linear codec of a small model, fitted to the training images before the first step."""

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from igm.models import ModelError
from igm.models.codec import PatchPCA
from igm.models.unet import one_line, read_config
from igm.training.export import replace_folder

MOST_IMAGES = 5000  # that a codec is fitted to


def is_unfitted(name: str | Path) -> bool:
    """Whether a folder holds the config of a PatchPCA without weights: one to be fitted to the training images."""
    folder = Path(name)
    folder = folder / "vae" if (folder / "vae").is_dir() else folder
    if not (folder / "config.json").is_file() or any(folder.glob("*.safetensors")):
        return False
    return read_config(folder, "--pretrained_model_name").get("_class_name") == "PatchPCA"


def unfitted_codec(name: str | Path) -> PatchPCA:
    """The codec of a config, all zeros.

    Raises:
        ModelError: the config is not a PatchPCA's.
    """
    shape = {n: v for n, v in read_config(name, "--pretrained_model_name").items() if not n.startswith("_")}
    try:
        return PatchPCA(**shape)
    except (TypeError, RuntimeError) as error:
        raise ModelError(f"--pretrained_model_name {name} is no usable codec config ({one_line(error)})") from None


def fitted_codec(name: str | Path, dataset: Any, folder: Path, accelerator: Accelerator) -> Path:
    """Fit the codec of a config to the training images and their mirror images, once a run.

    Returns:
        `folder`, which then holds the codec on every process.
    """
    if accelerator.is_main_process and not folder.is_dir():
        codec = unfitted_codec(name)
        print(f"Codec: {fit_codec(codec, dataset):.1%} of the variance kept; saved in {folder}")
        replace_folder(folder, codec.save_pretrained)
    accelerator.wait_for_everyone()
    return folder


def fit_codec(codec: PatchPCA, dataset: Any) -> float:
    """Fit a codec to a dataset's first pictures and their mirror images; return the share of the variance that it keeps."""
    rows = tqdm(range(min(len(dataset), MOST_IMAGES)), "codec", unit="image", leave=False)
    images = torch.stack([dataset[i]["pixel_values"] for i in rows])  # (N, 3, R, R)
    return codec.fit(torch.cat([images, images.flip(-1)]))
