"""About how long trainings and evaluations take: FLOP of the networks, and what was measured."""

from igm.reproduction.rows import Training

TFLOPS = 30  # that a GPU is taken to sustain in half precision: a guess, a tenth of an A100's peak
FULL_BASIS = f"FLOP of the networks at {TFLOPS} TFLOP/s a GPU; reading of data not counted. Nothing was timed on a GPU."
MINI_BASIS = (
    "steps and images measured on one core of a shared AMD EPYC (docs/results.md, docs/training.md); images of baselines "
    "that answer in one pass are a guess; codecs and caches not counted."
)


def gpu_seconds(gflop: float) -> float:
    """Seconds of so much work on one GPU."""
    return gflop / (1000 * TFLOPS)


def full_training(script: str, config: str, name: str, steps: int, images: int, gflop: float) -> Training:
    """A training of configs/paper on two GPUs. images: of a step. gflop: of an image, forward and backward."""
    return Training(
        script=script,
        options=("--config", f"configs/paper/{config}.yaml"),
        name=name,
        steps=steps,
        processes=2,
        step_seconds=gpu_seconds(images * gflop) / 2,
    )
