"""The tables of the paper (arXiv 2505.21780): CLEVR's and CLEVRTex's, of faces, of animals, and the ablations.

Beside them CLEVR-CoGenT's, which is not in the paper.
"""

import dataclasses

from igm.reproduction.clevr import FULL_ROWS, MINI_ROWS, SAME_STEPS, ablation_rows, ablations_of, on_textures
from igm.reproduction.cogent import COGENT_ROWS
from igm.reproduction.costs import FULL_BASIS, MINI_BASIS, full_training, gpu_seconds
from igm.reproduction.rows import Published, Row, Table, Training


def celeba_rows(igm: Row, gc: Row, resnet: Row) -> tuple[Row, ...]:
    """The three rows of faces, with the paper's numbers."""
    paper = {"igm": (80.8, 65.6), "gc": (79.1, 61.7), "resnet50": (79.6, 62.2)}
    return tuple(
        dataclasses.replace(
            row, paper={d: Published(v) for d, v in zip(("female", "male"), paper[row.name], strict=True)}
        )
        for row in (resnet, gc, igm)
    )


FACES_FULL = ("eval_celeba.py", "--config", "configs/paper/celeba.yaml")
CELEBA_FULL = celeba_rows(
    Row(
        name="igm",
        title="IGM",
        training=full_training("train_celeba.py", "celeba_train", "celeba", 30_000, 128, 58.5),
        evaluation=FACES_FULL,
        image_seconds=gpu_seconds(1000 * 6 * 6.5),
    ),
    Row(
        name="gc",
        title="Generative classifier (GC)",
        training=full_training("train_celeba.py", "celeba_gc_train", "celeba-gc", 30_000, 128, 19.5),
        evaluation=(*FACES_FULL, "--method", "gc"),
        note=SAME_STEPS,
        image_seconds=gpu_seconds(1000 * 8 * 6.5),
    ),
    Row(
        name="resnet50",
        title="ResNet-50",
        training=full_training("train_celeba.py", "celeba_resnet_train", "celeba-resnet50", 20_000, 128, 8.0),
        evaluation=("eval_celeba.py", "--method", "resnet"),
        image_seconds=gpu_seconds(2.7),
    ),
)

SMALL_FACES: tuple[str, ...] = ("--flip", "--resolution", "64", "--train_batch_size", "64", "--lr_scheduler", "cosine")
SMALL_FACES += ("--lr_warmup_steps", "100", "--mixed_precision", "bf16", "--seed", "0")
SMALL_FACES += ("--checkpointing_steps", "500", "--checkpoints_total_limit", "2")
SMALL_GC = (
    *("--learner", "joint_label", *SMALL_FACES, "--num_validation_images", "0"),
    *("--pretrained_model_name", "models/pretrained/celeba-mini/vae"),
    *("--unet_config", "configs/celeba-mini/unet", "--learning_rate", "1e-3", "--t_logit_normal", "-0.5", "0.6"),
    *("--scheduler_config", "configs/celeba-mini/scheduler/scheduler_config.json", "--use_ema", "--ema_decay", "0.998"),
)
CALIBRATED = ("eval_celeba.py", "--num_draws", "100", "--timestep_range", "200", "500")  # celeba-mini's own range
CELEBA_MINI = celeba_rows(
    Row(
        name="igm",
        title="IGM (celeba-mini)",
        checkpoint="celeba-mini",
        evaluation=CALIBRATED,
        image_seconds=0.41,
    ),
    Row(
        name="gc",
        title="Generative classifier (small)",
        training=Training(
            script="train_celeba.py", options=SMALL_GC, name="celeba-mini-gc", steps=12_000, step_seconds=0.3
        ),
        evaluation=(*CALIBRATED, "--method", "gc"),
        image_seconds=0.59,
    ),
    Row(
        name="resnet50",
        title="ResNet-50",
        training=Training(
            script="train_celeba.py",
            options=("--learner", "resnet50", *SMALL_FACES),
            name="celeba-mini-resnet50",
            steps=1_400,
            step_seconds=2.1,
        ),
        evaluation=("eval_celeba.py", "--method", "resnet"),
        image_seconds=0.02,
    ),
)


def animal_rows(common: tuple[str, ...], checkpoint: str, seconds: tuple[float | None, ...]) -> tuple[Row, ...]:
    """The three methods on one text-to-image model. seconds: of a picture, method by method."""
    methods = (
        ("diffusion_classifier", "Diffusion Classifier", 70.4),
        ("dc_variant", "Joint prompts (DC variant)", 73.2),
        ("igm", "IGM", 87.3),
    )
    return tuple(
        Row(
            name=name,
            title=title,
            checkpoint=checkpoint,
            evaluation=("eval_animal.py", *common, "--method", name),
            paper={"all": Published(share)},
            groups=1,
            image_seconds=own,
        )
        for (name, title, share), own in zip(methods, seconds, strict=True)
    )


SD_ROWS = animal_rows(("--config", "configs/paper/animals.yaml"), "", (None, None, None))
SMALL_SD_ROWS = animal_rows((), "animals-mini", (0.4, 0.2, 0.1))

FOUND, RIGHT, PAIRS = "found within 0.05", "right attributes", "right pairs"
CLEVR = Table(
    title="CLEVR: positions of objects",
    score=FOUND,
    rows=FULL_ROWS,
    reference="igm",
    num_images=100,
    basis=FULL_BASIS,
    processes=2,
)
SMALL_CLEVR = dataclasses.replace(CLEVR, rows=MINI_ROWS, basis=MINI_BASIS, processes=1)
TEXTURES, CHANGES = "CLEVRTex: positions, of models that were trained on CLEVR", "CLEVR: what the inference is made of"
CELEBA = dataclasses.replace(CLEVR, title="CelebA: attributes of faces", score=RIGHT, rows=CELEBA_FULL, num_images=1000)
ANIMALS = dataclasses.replace(CLEVR, title="Animals: two of three", score=PAIRS, rows=SD_ROWS, num_images=1000)
FULL_IGM, SMALL_IGM = (next(row for row in rows if row.name == "igm") for rows in (FULL_ROWS, MINI_ROWS))
ONE_DESCENT = gpu_seconds(5.5 * 2000 * 3 * 1.7)
FULL_ABLATIONS = ablation_rows(FULL_IGM, ablations_of(ONE_DESCENT, ONE_DESCENT, 0.6))
MINI_ABLATIONS = ablation_rows(SMALL_IGM, ablations_of(10, 5, 0.43))


def on_clevrtex(table: Table) -> Table:
    """A table of CLEVR on CLEVRTex."""
    return dataclasses.replace(table, title=TEXTURES, rows=on_textures(table.rows), trains_elsewhere=True)


TABLES = {
    "clevr": {"full": CLEVR, "mini": SMALL_CLEVR},
    "clevrtex": {"full": on_clevrtex(CLEVR), "mini": on_clevrtex(SMALL_CLEVR)},
    "cogent": {
        "mini": dataclasses.replace(
            SMALL_CLEVR,
            title="CLEVR-CoGenT: whole objects, trained on condition A",
            rows=COGENT_ROWS,
            num_images=200,
            compares_groups=True,
        )
    },
    "celeba": {
        "full": CELEBA,
        "mini": dataclasses.replace(CELEBA, rows=CELEBA_MINI, basis=MINI_BASIS, processes=1),
    },
    "animals": {
        "full": dataclasses.replace(ANIMALS, basis="Stable Diffusion was never timed on a GPU here."),
        "mini": dataclasses.replace(
            ANIMALS, rows=SMALL_SD_ROWS, num_images=60, basis=MINI_BASIS, processes=1, dataset_root="data/animals"
        ),
    },
    "ablation": {
        "full": dataclasses.replace(CLEVR, title=CHANGES, rows=FULL_ABLATIONS),
        "mini": dataclasses.replace(SMALL_CLEVR, title=CHANGES, rows=MINI_ABLATIONS, num_images=50),
    },
}
