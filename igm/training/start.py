"""From settings to a running training: what the training scripts share besides their datasets."""

import contextlib
import dataclasses
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    ProjectConfiguration,
    set_seed,
)

from igm import UserError, say, warn
from igm.devices import compiler_works, usable_precision
from igm.dry_run import describe, memory_estimate, parts_of
from igm.facts import Facts
from igm.files import locked, replace_json
from igm.models import ModelError
from igm.models.unet import cond_size as size_of_cond
from igm.models.unet import read_config
from igm.provenance import provenance
from igm.publishing import create_repository
from igm.tasks import find_task
from igm.training.checkpoints import check_same_run, find_checkpoint, is_own, list_checkpoints, plain
from igm.training.codecs import fitted_codec, is_unfitted
from igm.training.held_out import HeldOut, encoded, method_for
from igm.training.latent_cache import CachedLatents, build_cache, cache_bytes, cache_index, cache_path
from igm.training.learner import Learner
from igm.training.loop import train
from igm.training.previews import make_validator
from igm.training.publish import publish
from igm.training.settings import ModelSettings, ReportSettings, RunSettings, TrainSettings
from igm.training.trackers import choose_tracker, start_trackers

RUN_FILE = "run.json"  # in the run's folder: the options, the command and the versions of its last start
PRECISIONS = ("no", "fp16", "bf16")


@dataclass(frozen=True)
class Job:
    """A training that was asked for.

    Args:
        learner: what is trained. options: everything that was asked for, by name, to be kept beside the results.
    """

    learner: type[Learner]
    model: ModelSettings
    training: TrainSettings
    report: ReportSettings
    run: RunSettings
    options: Mapping[str, Any]

    @property
    def run_dir(self) -> Path:
        """Where checkpoints, cache, pictures and logs go."""
        return Path(self.run.output_dir) / self.run.tracker_project_name


def start_training(job: Job, dataset: Any, validation: Any, facts: Facts) -> None:
    """Build everything that the settings ask for, and train.

    Args:
        dataset, validation: training items, and those whose pictures are drawn.
        facts: of the training data, stored with every checkpoint.

    Raises:
        UserError, ModelError, DataError, TrainingError: a mistake of the user's, in one line.
        KeyboardInterrupt: stopped; its notes say how to go on.
    """
    config = read_config(job.model.unet_config, "--unet_config")
    size = dataset.annotation(0)["conds"].shape[-1]
    if job.learner.any_cond_size:
        config = {**config, "cond_size": size}
    if size_of_cond(config) != size:
        raise ModelError(
            f"--unet_config {job.model.unet_config} is for other conditions, of size {size_of_cond(config)}; this "
            f"dataset's have size {size}: write that in the config's cond_size, or name another"
        )
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    facts = dataclasses.replace(facts, learner=job.learner.name, resolution=dataset.resolution)
    accelerator, job = make_accelerator(job)
    accelerator.print(f"{len(dataset):,} training images, {dataset.num_skipped} unreadable ones left out")
    training = job.training.resolved(len(dataset), accelerator.num_processes)
    same_run = {"task": facts.task, "learner": facts.learner, "dataset": data_identity(dataset)}
    with writing(accelerator, job), way_on(job):
        job = dataclasses.replace(
            job, training=check_resume(job, training, {**same_run, "unet_config": config}, accelerator)
        )
        pushes = job.run.push_to_hub and accelerator.is_main_process and not job.run.dry_run
        repo = create_repository(job.run.repository, job.run.hub_token) if pushes else ""
        name = job.model.pretrained_model_name
        if (
            name
            and is_unfitted(name)
            and not job.run.dry_run
            and "pretrained_model_name" not in job.learner.idle_options
        ):
            codec = str(fitted_codec(name, dataset, job.run_dir / "codec", accelerator))
            job = dataclasses.replace(job, model=dataclasses.replace(job.model, pretrained_model_name=codec))
        set_seed(job.training.seed)  # the network's first weights; every process draws the same
        learner = job.learner.build(job.model, job.training, facts)
        if job.run.dry_run:
            if accelerator.is_main_process:
                describe_training(job, dataset, validation, learner)
            return
        run_training(accelerator, job, learner, dataset, validation, {**same_run, **learner.identity()})
        if pushes:
            publish(learner, job.run_dir / f"checkpoint-{job.training.num_steps}", repo, job.run.hub_token, sys.argv)


def run_training(
    accelerator: Accelerator, job: Job, learner: Learner, dataset: Any, validation: Any, same_run: Mapping[str, Any]
) -> None:
    """Train a learner with its cache, trackers and pictures; this process, or its main one, writes the run's folder."""
    training, run_dir = job.training, job.run_dir
    if training.compile and not compiler_works(accelerator.device):
        training = dataclasses.replace(training, compile=False)
    held_out = make_held_out(accelerator, job, learner, dataset, validation)
    codec = learner.codec
    if codec is not None and caches(training, dataset, learner):
        codec.to(accelerator.device)
        workers = training.dataloader_num_workers
        path = build_cache(dataset, codec, run_dir / "cache", device=accelerator.device, num_workers=workers)
        dataset = CachedLatents(dataset, path)
    elif accelerator.device.type == "cuda" and codec is not None:  # what is kept is encoded in float32
        precisions = {"fp16": torch.float16, "bf16": torch.bfloat16}
        codec.to(precisions.get(accelerator.mixed_precision, torch.float32))
    if accelerator.is_main_process:
        run_dir.mkdir(parents=True, exist_ok=True)
        made_by = provenance(accelerator.device, accelerator.num_processes).to_json()
        replace_json(run_dir / RUN_FILE, plain({"options": job.options, **made_by}))
        start_trackers(accelerator, job.report.report_to, job.run.tracker_project_name, job.options)
    previews = make_previews(accelerator, job, learner, validation)

    def validate(step: int) -> Mapping[str, float] | None:
        if previews is not None:
            previews(step)
        return held_out(step) if held_out is not None else None

    train(
        accelerator,
        learner,
        dataset,
        run_dir,
        training,
        same_run=same_run,
        options=job.options,
        validate=validate,
        on_begin=held_out.begin if held_out is not None else None,
    )
    accelerator.end_training()


def make_held_out(
    accelerator: Accelerator, job: Job, learner: Learner, dataset: Any, validation: Any
) -> HeldOut | None:
    """What measures the error on held-out images, if that is asked for; their posteriors are computed here, in float32."""
    number = min(job.report.held_out_images, len(validation))
    if not number:
        return None
    if validation is dataset:
        say("There is no validation split: val_error is of training images")
    items = [validation[i] for i in range(number)]
    pictures = items if job.report.validation_found else []
    if pictures and ("pixel_values" not in items[0] or method_for(learner) is None):
        say(f"note: --validation_found has no effect on --learner {learner.name}")
        pictures = []
    if learner.codec is not None:
        learner.codec.to(accelerator.device)
    posteriors = encoded(items, learner.codec, accelerator.device, job.report.val_batch_size)
    names = find_task(learner.facts.task).names(validation) if pictures else ()
    return HeldOut(accelerator, learner, posteriors, job.run_dir, job.training, pictures, names)


def make_previews(
    accelerator: Accelerator, job: Job, learner: Learner, validation: Any
) -> Callable[[int], None] | None:
    """What draws the validation pictures, if they are asked for."""
    number = min(job.report.num_validation_images, len(validation))
    if not (learner.draws and number):
        return None
    return make_validator(
        accelerator,
        learner,
        [validation[i] for i in range(number)],
        job.run_dir,
        num_inference_steps=50,
        seed=job.training.seed,
        scheduler=job.report.validation_scheduler,
        batch_size=job.report.val_batch_size,
    )


def caches(training: TrainSettings, dataset: Any, learner: Learner) -> bool:
    """Whether latents are kept on disk: not where there is no codec, and not where every epoch has other pixels."""
    return not training.no_latent_cache and learner.codec is not None and not hasattr(dataset, "varied")


def make_accelerator(job: Job) -> tuple[Accelerator, Job]:
    """The processes of this run, their device, precision and trackers; and the job with what accelerate's files say.

    Raises:
        UserError: accelerate is configured for what this loop does not do.
    """
    on_cpu = not torch.accelerator.is_available()
    if on_cpu and "RANK" in os.environ and os.environ.get("ACCELERATE_USE_CPU", "").lower() != "true":
        warn(f"no GPU is usable here; {os.environ['WORLD_SIZE']} processes train on the CPU")
    for kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        if os.environ.get(f"ACCELERATE_USE_{kind}", "").lower() == "true":
            raise UserError(f"accelerate is configured for {kind}; this trains data parallel: choose MULTI_GPU there")
    precision = job.run.mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if precision not in PRECISIONS:
        raise UserError(f"accelerate's mixed_precision {precision} is none of {', '.join(PRECISIONS)}; choose one")
    steps = job.training.gradient_accumulation_steps or os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    accumulation = int(steps) if str(steps).isdecimal() and int(steps) else 1
    ddp = DistributedDataParallelKwargs(gradient_as_bucket_view=True, broadcast_buffers=False)  # no copy; none to send
    torch.backends.cuda.matmul.allow_tf32 = job.run.allow_tf32
    accelerator = Accelerator(
        cpu=on_cpu,  # several processes without a GPU then find each other too
        mixed_precision=usable_precision(precision),
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=accumulation),
        log_with=None if job.run.dry_run else choose_tracker(job.report.report_to),
        project_config=ProjectConfiguration(str(job.run_dir), logging_dir=str(job.run_dir / job.report.logging_dir)),
        kwargs_handlers=[ddp],
    )
    training = dataclasses.replace(job.training, gradient_accumulation_steps=accumulation)
    found = {"mixed_precision": accelerator.mixed_precision, "gradient_accumulation_steps": accumulation}
    return accelerator, dataclasses.replace(job, training=training, options={**job.options, **found})


@contextlib.contextmanager
def writing(accelerator: Accelerator, job: Job) -> Iterator[None]:
    """Be the only run that writes the run's folder; a dry run writes none.

    Raises:
        UserError: another one does.
    """
    if not accelerator.is_main_process or job.run.dry_run:
        yield
        return
    new = not job.run_dir.exists()
    try:
        with locked(job.run_dir):
            yield
    finally:
        if new:
            with contextlib.suppress(OSError):  # something is in it
                job.run_dir.rmdir()


@contextlib.contextmanager
def way_on(job: Job) -> Iterator[None]:
    """Note on an interruption what is kept, and how to go on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        own = [path for path in list_checkpoints(job.run_dir) if is_own(path)]
        kept = f"{own[-1]} is kept; " if own else "there is no checkpoint yet; "
        stop.add_note(kept + "the same command with --resume_from_checkpoint latest goes on")
        raise


def data_identity(dataset: Any) -> str:
    """A short name for a dataset's size, ids and concepts (of up to 256 items), wherever its files lie."""
    digest = hashlib.sha256(str(len(dataset)).encode())
    for i in torch.linspace(0, len(dataset) - 1, min(len(dataset), 256)).long().tolist():
        labels = dataset.annotation(i)
        digest.update(f"{labels['image_id']} {labels['conds'].tolist()} {labels['mask'].tolist()}".encode())
    return digest.hexdigest()[:16]


def check_resume(
    job: Job, training: TrainSettings, facts: Mapping[str, Any], accelerator: Accelerator
) -> TrainSettings:
    """Find out before anything is loaded whether --resume_from_checkpoint names a checkpoint of this run.

    Returns:
        the settings, with the path of the checkpoint to go on from, or None.

    Raises:
        ModelError: it does not exist, cannot be resumed, or is of another architecture or dataset.
    """
    name = training.resume_from_checkpoint
    if name is None:
        own = [path for path in list_checkpoints(job.run_dir) if is_own(path)]
        if own and not job.run.dry_run:
            warn(
                f"{job.run_dir} holds checkpoints of an earlier training, up to {own[-1].name}; this one starts at step 0 "
                "(--resume_from_checkpoint latest goes on, another --tracker_project_name keeps them apart)"
            )
        return training
    checkpoint = find_checkpoint(job.run_dir, name)
    if checkpoint is not None:
        shape = {k: v for k, v in facts["unet_config"].items() if not k.startswith("_") and k != "sample_size"}
        check_same_run(checkpoint, {**facts, "unet_config": shape}, accelerator.num_processes)
    return dataclasses.replace(training, resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def describe_training(job: Job, dataset: Any, validation: Any, learner: Learner) -> None:
    """What --dry_run prints of a training."""
    training = job.training
    memory = memory_estimate(
        learner,
        training.train_batch_size * dataset.annotation(0)["mask"].numel(),
        training.train_batch_size,
        job.options["mixed_precision"],
        gradient_checkpointing=job.model.gradient_checkpointing,
        state_bytes=training.state_bytes,
    )
    more = []
    codec = learner.codec
    if codec is not None and caches(training, dataset, learner):
        path = cache_path(job.run_dir / "cache", dataset, codec)
        size = cache_bytes(cache_index(path, dataset, codec)) / 1e6
        more.append(f"Latents cache: {size:,.1f} MB in {path}, {'there' if path.exists() else 'not built yet'}")
    counts = {"training": len(dataset)}
    shown = max(job.report.held_out_images, job.report.num_validation_images * learner.draws)
    if shown:
        counts["validation"] = min(shown, len(validation))
    describe({**job.options, **dataclasses.asdict(training)}, counts, parts_of(learner), memory, more)
