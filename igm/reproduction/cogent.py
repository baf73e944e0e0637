"""The rows of CLEVR-CoGenT: shapes have other colours at test than in training. Not in the paper.

Trained on condition A, asked on A and B. IGM and the baselines see the same pictures, and learn the same attributes.
"""

from igm.reproduction.rows import Row, Training

IN_BOTH = ("--split", "valA", "valB", "--object_counts", "3-5")


# Not the shape: in condition A it can be read off the colour, and telling it from a wrong one teaches just that.
MISTAKEN = ("--contrast_fields", "color", "material", "size")


def on_condition_a(config: str, name: str, steps: int, seconds: float, *options: str) -> Training:
    """A training of a config for whole objects on the scenes of condition A.

    Nothing is varied: turned hues would show shapes in the colours of condition B.
    """
    return Training(
        script="train_clevr.py",
        options=("--config", config, "--split", "trainA", "--vary", "0", *options),
        name=f"cogent-{name}",
        steps=steps,
        step_seconds=seconds,
    )


def baseline(name: str, title: str, method: str, steps: int, seconds: float) -> Row:
    """A baseline that gives whole objects at once, of configs/baselines."""
    return Row(
        name=name,
        title=title,
        training=on_condition_a(f"configs/baselines/{name}_objects.yaml", name, steps, seconds),
        evaluation=("eval_clevr.py", "--method", method, *IN_BOTH),
        image_seconds=0.02,
    )


# On one core the ResNet trains 50 minutes, Slot Attention two hours, IGM 60 to 90 minutes.
COGENT_ROWS = (
    baseline("resnet50", "ResNet (small)", "resnet", 12_000, 0.25),
    baseline("slot_attention", "Slot Attention (small)", "slot_attention", 20_000, 0.37),
    Row(
        name="igm",
        title="IGM (clevr-scene-mini's training)",
        training=on_condition_a("configs/clevr-scene-mini/train.yaml", "igm", 9_000, 0.5, *MISTAKEN),
        evaluation=("eval_clevr.py", "--method", "pursuit", *IN_BOTH),
        image_seconds=1.4,
    ),
)
