"""From parsed options to a running training: what the training scripts share besides their datasets."""

import argparse
import dataclasses
import os
from pathlib import Path

import diffusers
import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, set_seed

from igm import warn
from igm.checkpoints import find_checkpoint
from igm.latents import CachedLatents, build_cache, cache_path
from igm.options import choose_tracker, train_settings, usable_precision
from igm.training import TrainSettings, train
from igm.validation import make_validator
from models import ModelError
from models.attention import use_single_token_attention
from models.codec import DEFAULT_MODEL, load_codec
from models.denoiser import Denoiser, build_denoiser, check_resolution, load_network
from models.unet import cond_size as size_of_cond
from models.unet import read_config


def start_training(
    options: argparse.Namespace, dataset, validation, *, meta: dict, cond_size: int, build=None, loss=None
) -> None:
    """Build everything that the options ask for, and train.

    Args:
        dataset, validation: training items, and those whose pictures are drawn.
        meta: facts about the training data, stored with every checkpoint.
        cond_size: D of the dataset's conditions.
        build: makes the model, called as `make_denoiser`, the default. loss: as in `igm.training.train`.

    Raises:
        ModelError, DataError, TrainingError: a mistake of the user's, in one line.
    """
    if size_of_cond(read_config(options.unet_config, "--unet_config")) != cond_size:
        raise ModelError(
            f"--unet_config {options.unet_config} is for other conditions; this dataset's have size {cond_size}"
        )
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    run_dir = Path(options.output_dir) / options.tracker_project_name
    if options.resume_from_checkpoint:
        find_checkpoint(run_dir, options.resume_from_checkpoint)  # a wrong name shows at once
    tracker = choose_tracker(options.report_to)
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # several processes without a GPU then find each other too
        mixed_precision=usable_precision(options.mixed_precision),
        gradient_accumulation_steps=options.gradient_accumulation_steps,
        log_with=tracker,
        project_config=ProjectConfiguration(str(run_dir), logging_dir=str(run_dir / options.logging_dir)),
    )
    accelerator.print(f"{len(dataset):,} training images, {dataset.num_skipped} unreadable ones left out")
    settings = train_settings(options, len(dataset), accelerator.num_processes)
    set_seed(options.seed)  # the network's first weights; every process draws the same
    denoiser = (build or make_denoiser)(options, accelerator, meta)
    if not options.no_latent_cache:
        dataset = cache_latents(accelerator, dataset, denoiser, run_dir / "cache", options.dataloader_num_workers)
    if accelerator.is_main_process:
        run_dir.mkdir(parents=True, exist_ok=True)
        start_trackers(accelerator, options, settings)
    validate = None
    if options.num_validation_images:
        items = [validation[i] for i in range(min(options.num_validation_images, len(validation)))]
        validate = make_validator(
            accelerator,
            denoiser,
            items,
            run_dir,
            scheduler=options.validation_scheduler,
            batch_size=options.val_batch_size,
            num_inference_steps=50,
            seed=options.seed,
        )
    config = {k: v for k, v in sorted(denoiser.network.config.items()) if not k.startswith("_")}
    same_run = {"unet_config": config, "task": meta["task"]}
    train(accelerator, denoiser, dataset, run_dir, settings, same_run=same_run, validate=validate, loss=loss)
    accelerator.end_training()


def make_denoiser(options: argparse.Namespace, accelerator: Accelerator, meta: dict) -> Denoiser:
    """A Denoiser with fresh weights: trainable network in float32, frozen codec in the run's precision."""
    codec_name = options.pretrained_model_name or DEFAULT_MODEL
    codec = load_codec(codec_name, local_files_only=options.local_files_only).eval().requires_grad_(False)
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(accelerator.mixed_precision, torch.float32)
    if accelerator.device.type == "cuda":
        codec.to(dtype)
    torch.backends.cuda.matmul.allow_tf32 = options.allow_tf32
    meta = {**meta, "codec": str(codec_name), "resolution": options.resolution}
    denoiser = build_denoiser(options.unet_config, options.scheduler_config, codec, meta)
    check_resolution(denoiser.network.config, codec, options.resolution)
    if options.initialize_from:
        copy_weights(load_network(Path(options.initialize_from)), denoiser.network, options.initialize_from)
    if denoiser.resolution != options.resolution:  # a convolutional network takes any; its checkpoints should say which
        denoiser.network.register_to_config(sample_size=options.resolution // codec.downsampling)
    if options.gradient_checkpointing:
        denoiser.network.enable_gradient_checkpointing()
    if options.enable_xformers_memory_efficient_attention:
        use_xformers(denoiser.network)
    return denoiser


def copy_weights(source: torch.nn.Module, target: torch.nn.Module, name: str) -> None:
    """Copy a checkpoint's weights into a network of the same architecture.

    Raises:
        ModelError: the architectures differ.
    """
    try:
        target.load_state_dict(source.state_dict())
    except RuntimeError:
        raise ModelError(f"--initialize_from {name} has another architecture than --unet_config; use its own") from None


def use_xformers(network: torch.nn.Module) -> None:
    """Use xformers' attention where it can run; say once why not, and go on with PyTorch's."""
    try:
        network.enable_xformers_memory_efficient_attention()
        use_single_token_attention(network)
    except (ImportError, ValueError) as error:
        cause = "is not installed" if isinstance(error, ImportError) else "needs CUDA"
        warn(f"xformers {cause} (pip install '.[xformers]'); using PyTorch's attention")


def cache_latents(
    accelerator: Accelerator, dataset, denoiser: Denoiser, folder: Path, num_workers: int
) -> CachedLatents:
    """The dataset with its posteriors computed once, by the main process."""
    denoiser.codec.to(accelerator.device)
    with accelerator.main_process_first():
        if accelerator.is_main_process:
            build_cache(dataset, denoiser.codec, folder, device=accelerator.device, num_workers=num_workers)
    return CachedLatents(dataset, cache_path(folder, dataset, denoiser.codec))


def start_trackers(accelerator: Accelerator, options: argparse.Namespace, settings: TrainSettings) -> None:
    """Start the trackers; one that fails is dropped with a message, and training goes on."""
    config = {k: v for k, v in dataclasses.asdict(settings).items() if isinstance(v, int | float | str | bool)}
    try:
        # wandb reads WANDB_MODE once, when it is asked for a login: the mode is passed on as well
        wandb = {"dir": str(Path(accelerator.project_dir)), "mode": os.environ.get("WANDB_MODE")}
        accelerator.init_trackers(options.tracker_project_name, config=config, init_kwargs={"wandb": wandb})
    except Exception as error:  # trackers raise whatever their services do
        warn(f"--report_to {options.report_to} could not start ({error}); training goes on without it")
        accelerator.trackers = []
