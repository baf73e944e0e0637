"""The rows of the CLEVR table, of the same models on CLEVRTex, and of the ablations, with the paper's numbers.

At full scale the settings are those of configs/paper, at mini scale small networks and, where there are any, weights that
ship.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from igm.reproduction.costs import full_training, gpu_seconds
from igm.reproduction.rows import Published, Row, Training

ID, OOD = "3-5", "6-8"  # objects: as in training, and more


def numbers(found: float, error: float | None, more_found: float, more_error: float | None) -> dict[str, Published]:
    """The paper's cells for 3 to 5 objects, and for 6 to 8."""
    return {ID: Published(found, error), OOD: Published(more_found, more_error)}


IGM = numbers(94.7, 1.4e-4, 85.3, 3.5e-4)
ONE_START = numbers(72.8, None, 68.0, None)
DINOSAUR = numbers(82.5, 8.4e-4, 59.0, 1.2e-3)
GC = numbers(82.2, 6.0e-4, 58.7, 1.2e-3)
SLOTS = numbers(80.4, 8.7e-4, 53.3, 1.3e-3)
RESNET = numbers(5.3, 0.194, 2.9, 0.197)


def small_training(name: str, steps: int, seconds: float | None) -> Training:
    """A training of configs/baselines."""
    config = ("--config", f"configs/baselines/{name}.yaml")
    return Training(
        script="train_clevr.py", options=config, name=f"clevr-mini-{name}", steps=steps, step_seconds=seconds
    )


def one_pass(method: str) -> tuple[str, ...]:
    """The evaluation of a baseline that gives positions at once."""
    return ("eval_clevr.py", "--method", method)


DESCENT = ("eval_clevr.py", "--config", "configs/paper/clevr_gradient.yaml")  # published: one start, 2,000 steps
MANY_STARTS = (*DESCENT, "--num_inits", "10")
SAME_STEPS = "as many steps as IGM"
IMAGENET_NOTE = "not in the paper: frozen EfficientNet-Lite0 of ImageNet, not DINOSAUR"
# Steps: at a constant learning rate the published checkpoint of step 80,000 is that of a training of so many steps.
CLEVR_FULL = full_training("train_clevr.py", "clevr_train", "clevr", 80_000, 256, 18.4)
GC_FULL = full_training("train_clevr.py", "clevr_gc_train", "clevr-gc", 80_000, 256, 5.2)

FULL_ROWS = (
    Row(
        name="resnet50",
        title="ResNet-50",
        training=full_training("train_clevr.py", "clevr_resnet_train", "clevr-resnet50", 100_000, 128, 8.0),
        evaluation=one_pass("resnet"),
        paper=RESNET,
        image_seconds=gpu_seconds(2.7),
    ),
    Row(
        name="slot_attention",
        title="Slot Attention",
        training=full_training(
            "train_clevr.py", "clevr_slot_attention_train", "clevr-slot_attention", 150_000, 128, 4.4
        ),
        evaluation=one_pass("slot_attention"),
        paper=SLOTS,
        image_seconds=gpu_seconds(1.5),
    ),
    Row(
        name="dinosaur",
        title="DINOSAUR",
        training=full_training("train_clevr.py", "clevr_dinosaur_train", "clevr-dinosaur", 150_000, 64, 62),
        evaluation=one_pass("dinosaur"),
        paper=DINOSAUR,
        image_seconds=gpu_seconds(44),
        optional=True,  # its ViT is on the hub
    ),
    Row(
        name="gc",
        title="Generative classifier (GC)",
        training=GC_FULL,
        evaluation=("eval_clevr.py", "--method", "gc", "--num_inits", "10"),
        paper=GC,
        note=SAME_STEPS,
        image_seconds=gpu_seconds(10 * 2000 * 3 * 1.73),
    ),
    Row(
        name="igm",
        title="IGM (pursuit)",
        training=CLEVR_FULL,
        evaluation=one_pass("pursuit"),
        paper=IGM,
        note="this project's search, the paper's network",
        image_seconds=gpu_seconds(8_500 * 1.7 + 1_350 * 2 * 1.7),
    ),
    Row(
        name="igm_starts",
        title="IGM (gradient, 10 starts)",
        training=CLEVR_FULL,
        evaluation=MANY_STARTS,
        paper=IGM,
        image_seconds=gpu_seconds(5.5 * 10 * 2000 * 3 * 1.7),
    ),
    Row(
        name="igm_one_start",
        title="IGM, one start",
        training=CLEVR_FULL,
        evaluation=DESCENT,
        paper=ONE_START,
        image_seconds=gpu_seconds(5.5 * 2000 * 3 * 1.7),
    ),
)

# Each baseline trains at least as long on one core as clevr-mini did, 48 minutes.
MINI_ROWS = (
    Row(
        name="resnet50",
        title="ResNet (small)",
        training=small_training("resnet50", 22_000, 0.13),
        evaluation=one_pass("resnet"),
        paper=RESNET,
        image_seconds=0.02,
    ),
    Row(
        name="slot_attention",
        title="Slot Attention (small)",
        training=small_training("slot_attention", 20_000, 0.16),
        evaluation=one_pass("slot_attention"),
        paper=SLOTS,
        image_seconds=0.02,
    ),
    Row(
        name="slot_attention_imagenet",
        title="Slots on ImageNet features",
        training=small_training("slot_attention_imagenet", 8_000, 0.38),
        evaluation=one_pass("slot_attention_imagenet"),
        note=IMAGENET_NOTE,
        image_seconds=0.05,
        optional=True,  # the weights are of two packages that few have
    ),
    Row(
        name="dinosaur",
        title="DINOSAUR (small)",
        training=small_training("dinosaur", 20_000, None),
        evaluation=one_pass("dinosaur"),
        paper=DINOSAUR,
        image_seconds=0.2,
        optional=True,  # its ViT is on the hub
    ),
    Row(
        name="gc",
        title="Generative classifier (small)",
        training=small_training("gc", 9_000, 0.36),
        evaluation=("eval_clevr.py", "--method", "gc", "--num_inits", "5", "--num_steps", "400"),
        paper=GC,
        note="5 starts of 400 steps",
        image_seconds=11,
    ),
    Row(
        name="igm",
        title="IGM (clevr-mini, pursuit)",
        checkpoint="clevr-mini",
        evaluation=one_pass("pursuit"),
        paper=IGM,
        image_seconds=0.28,
    ),
    Row(
        name="igm_scenes",
        title="IGM (clevr-scene-mini, whole objects)",
        checkpoint="clevr-scene-mini",
        evaluation=one_pass("pursuit"),
        paper=IGM,
        image_seconds=1.1,
    ),
    Row(
        name="igm_attention",
        title="IGM (GC's network, pursuit)",
        training=small_training("compositional", 9_000, 0.36),
        evaluation=(*one_pass("pursuit"), "--num_candidates", "144", "--num_draws", "8", "--confidence_draws", "4"),
        paper=IGM,
        note="the published kind of network: cross-attention, a row for each position; fewer draws",
        image_seconds=10,
    ),
    Row(
        name="igm_one_start",
        title="IGM (clevr-mini, one start)",
        checkpoint="clevr-mini",
        evaluation=DESCENT,
        paper=ONE_START,
        image_seconds=6.1,
    ),
)


def on_textures(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """The same models on CLEVRTex, for which the paper shows pictures and no numbers."""
    test = ("--split", "test", "--object_counts", ID, OOD, "--places_only")  # its shapes and materials are others
    return tuple(dataclasses.replace(row, evaluation=(*row.evaluation, *test), paper={}) for row in rows)


@dataclass(frozen=True)
class Ablated:
    """What an ablation changes: the panel of the figure, an option, and its values."""

    panel: str
    name: str
    option: str
    values: tuple[str, ...]
    evaluation: tuple[str, ...]
    seconds: tuple[float, ...]  # of an image, value by value
    groups: int = 2
    paper: Mapping[str, Mapping[str, Published]] = field(default_factory=dict)  # by value


def ablation_rows(model: Row, ablations: tuple[Ablated, ...]) -> tuple[Row, ...]:
    """A row for every value of what is changed, after that of the model as it is."""
    rows = [model]
    for one in ablations:
        for value, seconds in zip(one.values, one.seconds, strict=True):
            words = (*one.evaluation, one.option, *value.split())
            label = value.replace(" ", "-")
            rows.append(
                Row(
                    name=f"{one.name}-{label}",
                    title=f"{one.panel}: {label}",
                    training=model.training,
                    checkpoint=model.checkpoint,
                    evaluation=words,
                    paper=one.paper.get(value, {}),
                    optional=one.groups == 1,  # data need not have every number
                    groups=one.groups,
                    image_seconds=seconds,
                    panel=one.panel,
                    x=label,
                )
            )
    return tuple(rows)


def ablations_of(start: float, further: float, search: float) -> tuple[Ablated, ...]:
    """What is changed.

    Args:
        start, further: seconds of one start of the descent for an image, and of each further one.
        search: of the pursuit as it is.
    """
    pursuit, counts = one_pass("pursuit"), tuple(map(str, range(3, 11)))
    starts, draws = ("1", "2", "5", "10", "20"), ("4", "8", "16", "32", "64", "128")
    ranges = ("0 200", "0 400", "0 500", "200 500", "0 1000")
    return (
        Ablated(
            "starts of the descent",
            "starts",
            "--num_inits",
            starts,
            DESCENT,
            tuple(start + further * (int(n) - 1) for n in starts),
            paper={"1": ONE_START},
        ),
        Ablated(
            "noise draws", "draws", "--num_draws", draws, pursuit, tuple(search * max(0.5, int(n) / 64) for n in draws)
        ),
        Ablated("timesteps", "timesteps", "--timestep_range", ranges, pursuit, (search,) * len(ranges)),
        Ablated("objects", "objects", "--object_counts", counts, pursuit, (search,) * len(counts), groups=1),
    )
