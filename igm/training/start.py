"""From parsed options to a running training: what the training scripts share besides their datasets."""

import argparse
import dataclasses
import hashlib
import os
from pathlib import Path

import diffusers
import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration, set_seed

from igm import warn
from igm.cli.training import choose_tracker, train_settings
from igm.devices import compiler_works, usable_precision
from igm.dry_run import describe, memory_estimate, parts_of
from igm.facts import Facts
from igm.models import ModelError
from igm.models.attention import use_single_token_attention
from igm.models.codec import DEFAULT_MODEL, load_codec
from igm.models.denoiser import Denoiser, build_denoiser, check_resolution, load_network
from igm.models.unet import cond_size as size_of_cond
from igm.models.unet import one_line, read_config
from igm.training.checkpoints import check_same_run, find_checkpoint
from igm.training.latent_cache import CachedLatents, build_cache, cache_bytes, cache_index, cache_path
from igm.training.loop import TrainSettings, train
from igm.training.previews import make_validator


def start_training(
    options: argparse.Namespace, dataset, validation, *, facts: Facts, cond_size: int, build=None, loss=None
) -> None:
    """Build everything that the options ask for, and train.

    Args:
        dataset, validation: training items, and those whose pictures are drawn.
        facts: of the training data, stored with every checkpoint.
        cond_size: D of the dataset's conditions.
        build: makes the model, called as `make_denoiser`, the default. loss: as in `igm.training.train`.

    Raises:
        ModelError, DataError, TrainingError: a mistake of the user's, in one line.
    """
    given = read_config(options.unet_config, "--unet_config")
    if size_of_cond(given) != cond_size:
        raise ModelError(
            f"--unet_config {options.unet_config} is for other conditions; this dataset's have size {cond_size}"
        )
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    run_dir = Path(options.output_dir) / options.tracker_project_name
    accelerator = make_accelerator(options, run_dir)
    accelerator.print(f"{len(dataset):,} training images, {dataset.num_skipped} unreadable ones left out")
    settings = train_settings(options, len(dataset), accelerator.num_processes)
    same_run = {"task": facts.task, "learner": facts.learner, "dataset": data_identity(dataset)}
    check_resume(options, run_dir, {**same_run, "unet_config": given}, accelerator.num_processes)
    set_seed(options.seed)  # the network's first weights; every process draws the same
    denoiser = (build or make_denoiser)(options, accelerator, facts)
    if options.dry_run:
        if accelerator.is_main_process:
            describe_training(options, settings, dataset, validation, denoiser, run_dir)
        return
    settings.compile = settings.compile and compiler_works(accelerator.device)
    if not options.no_latent_cache:
        denoiser.codec.to(accelerator.device)
        path = build_cache(
            dataset,
            denoiser.codec,
            run_dir / "cache",
            device=accelerator.device,
            num_workers=options.dataloader_num_workers,
        )
        dataset = CachedLatents(dataset, path)
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
    same_run["unet_config"] = {k: v for k, v in sorted(denoiser.network.config.items()) if not k.startswith("_")}
    train(accelerator, denoiser, dataset, run_dir, settings, same_run=same_run, validate=validate, loss=loss)
    accelerator.end_training()


def make_accelerator(options: argparse.Namespace, run_dir: Path) -> Accelerator:
    """The processes of this run, their device and precision, and the trackers."""
    on_cpu = not torch.accelerator.is_available()
    if on_cpu and "RANK" in os.environ and os.environ.get("ACCELERATE_USE_CPU", "").lower() != "true":
        warn(f"no GPU is usable here; {os.environ['WORLD_SIZE']} processes train on the CPU")
    ddp = DistributedDataParallelKwargs(gradient_as_bucket_view=True, broadcast_buffers=False)  # no copy; none to send
    return Accelerator(
        cpu=on_cpu,  # several processes without a GPU then find each other too
        mixed_precision=usable_precision(options.mixed_precision),
        gradient_accumulation_steps=options.gradient_accumulation_steps,
        log_with=None if options.dry_run else choose_tracker(options.report_to),
        project_config=ProjectConfiguration(str(run_dir), logging_dir=str(run_dir / options.logging_dir)),
        kwargs_handlers=[ddp],
    )


def data_identity(dataset) -> str:
    """A short name for a dataset's size, ids and concepts (of up to 256 items), wherever its files lie."""
    digest = hashlib.sha256(str(len(dataset)).encode())
    for i in torch.linspace(0, len(dataset) - 1, min(len(dataset), 256)).long().tolist():
        labels = dataset.annotation(i)
        digest.update(f"{labels['image_id']} {labels['conds'].tolist()} {labels['mask'].tolist()}".encode())
    return digest.hexdigest()[:16]


def check_resume(options: argparse.Namespace, run_dir: Path, facts: dict, num_processes: int) -> None:
    """Find out before anything is loaded whether --resume_from_checkpoint names a checkpoint of this run.

    Raises:
        ModelError: it does not exist, or is of another architecture or dataset.
    """
    if options.resume_from_checkpoint:
        checkpoint = find_checkpoint(run_dir, options.resume_from_checkpoint)
        plain = {k: v for k, v in facts["unet_config"].items() if not k.startswith("_") and k != "sample_size"}
        if checkpoint:
            check_same_run(checkpoint, {**facts, "unet_config": plain}, num_processes)


def describe_training(
    options: argparse.Namespace, settings: TrainSettings, dataset, validation, denoiser: Denoiser, run_dir: Path
) -> None:
    """What --dry_run prints of a training."""
    concepts = dataset.annotation(0)["mask"].numel()
    memory = memory_estimate(
        denoiser,
        settings.train_batch_size * concepts,
        settings.train_batch_size,
        usable_precision(options.mixed_precision),
        gradient_checkpointing=options.gradient_checkpointing,
        state_bytes=settings.state_bytes,
    )
    more = []
    if not options.no_latent_cache:
        path = cache_path(run_dir / "cache", dataset, denoiser.codec)
        size = cache_bytes(cache_index(path, dataset, denoiser.codec)) / 1e6
        more.append(f"Latents cache: {size:,.1f} MB in {path}, {'there' if path.exists() else 'not built yet'}")
    counts = {"training": len(dataset)}
    if options.num_validation_images:
        counts["validation"] = min(options.num_validation_images, len(validation))
    describe({**vars(options), **dataclasses.asdict(settings)}, counts, parts_of(denoiser), memory, more)


def make_denoiser(options: argparse.Namespace, accelerator: Accelerator, facts: Facts) -> Denoiser:
    """A Denoiser with fresh weights: trainable network in float32, frozen codec."""
    codec_name = options.pretrained_model_name or DEFAULT_MODEL
    codec = load_codec(codec_name, local_files_only=options.local_files_only).eval().requires_grad_(False)
    if Path(codec_name).is_dir():
        codec_name = Path(codec_name).resolve()  # the checkpoint is then of use from every folder
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(accelerator.mixed_precision, torch.float32)
    if accelerator.device.type == "cuda" and options.no_latent_cache:  # what is kept is encoded in float32
        codec.to(dtype)
    torch.backends.cuda.matmul.allow_tf32 = options.allow_tf32
    facts = dataclasses.replace(facts, codec=str(codec_name), resolution=options.resolution)
    denoiser = build_denoiser(options.unet_config, options.scheduler_config, codec, facts)
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
    except Exception as error:  # not installed, no CUDA, or built for another version of either
        cause = "is not installed" if isinstance(error, ImportError) else f"is not usable here ({one_line(error)})"
        warn(f"xformers {cause}; install it with CUDA: pip install '.[xformers]'; using PyTorch's attention")
    use_single_token_attention(network)


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
