"""Time the animals inference with the network and VAE of Stable Diffusion 2.1 (random weights: only the time counts).

The published loop encodes the image and calls the network six times per noise draw (three pairs of two prompts, one row a
call); `infer_discrete` encodes it once and evaluates three rows per draw, batched. Both are timed on a few draws, per
draw and per image of 1,000 draws.

Example:
    python benchmarks/animals_inference.py --resolution 512 --mixed_precision fp16 --num_draws 20      (GPU)
    python benchmarks/animals_inference.py --resolution 128 --num_draws 1                              (CPU)
"""

import itertools
import time
from collections.abc import Callable
from types import SimpleNamespace

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from measure import peak_memory, synchronize

from igm.cli.launch import run
from igm.cli.options import Parser
from igm.devices import best_device
from igm.inference.discrete import Subsets, infer_discrete
from igm.inference.method import encode_images
from igm.inference.settings import DiscreteSettings
from igm.models.stable_diffusion import StableDiffusion
from igm.settings import positive

UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
}
SCHEDULER = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
CLASSES, TOKENS, FULL = 3, 77, 1000


def build(resolution: int, device: torch.device, dtype: torch.dtype) -> StableDiffusion:
    """A Denoiser of SD 2.1's shape, made in the dtype asked for, so that float32 weights never lie beside it."""
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with device:
        unet = UNet2DConditionModel(sample_size=resolution // 8, **UNET)
        vae = AutoencoderKL(**VAE)
    torch.set_default_dtype(torch.float32)
    parts = SimpleNamespace(unet=unet, vae=vae, scheduler=DDPMScheduler(prediction_type="v_prediction", **SCHEDULER))
    return StableDiffusion(parts).to(device).eval().requires_grad_(False)


@torch.no_grad()
def published_loop(
    denoiser: StableDiffusion, image: torch.Tensor, prompts: torch.Tensor, num_draws: int
) -> torch.Tensor:
    """Errors (3,) of the pairs: per draw one encoding and six rows, each by itself."""
    pairs = list(itertools.combinations(range(CLASSES), 2))
    errors = torch.zeros(len(pairs))
    for _ in range(num_draws):
        x_0 = encode_images(denoiser, image).mean
        t, eps = torch.randint(0, denoiser.num_timesteps, (1,), device=x_0.device), torch.randn_like(x_0)
        x_t, target = denoiser.add_noise(x_0, eps, t), denoiser.target(x_0, eps, t)
        for row, pair in enumerate(pairs):
            both = [denoiser.predict_pairs(x_t, t, prompts[i : i + 1], t * 0) for i in pair]
            errors[row] += (target - sum(both) / 2).square().mean().cpu() / num_draws
    return errors


def timed(function: Callable, device: torch.device) -> float:
    """Seconds of one call."""
    synchronize(device)
    started = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - started


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--resolution", type=positive, default=512, help="side of the image")
    parser.add_argument("--num_draws", type=positive, default=5, help="timed draws of each loop")
    parser.add_argument("--adaptive_draws", type=positive, default=100, help="draws that adaptive stopping needs")
    parser.add_argument("--batch_size", type=positive, help="rows at once (default: the Denoiser's own)")
    parser.add_argument("--mixed_precision", choices=("no", "fp16", "bf16"), default="no", help="of all weights")
    options = parser.parse_args()
    device = best_device()
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(options.mixed_precision, torch.float32)
    denoiser = build(options.resolution, device, dtype)
    image = torch.rand(1, 3, options.resolution, options.resolution, device=device) * 2 - 1
    prompts = torch.randn(CLASSES, TOKENS, UNET["cross_attention_dim"], device=device)
    batch, n = options.batch_size or denoiser.rows_at_once, options.num_draws
    posterior = encode_images(denoiser, image)

    def ours() -> None:
        infer_discrete(
            denoiser, posterior, prompts, Subsets(CLASSES, (2, 2)), DiscreteSettings(num_draws=n), batch_size=batch
        )

    if device.type == "cuda":  # the first calls also choose kernels
        published_loop(denoiser, image, prompts, 1)
        ours()
    encode = timed(lambda: encode_images(denoiser, image), device)
    new = timed(ours, device) / n
    memory = peak_memory(device)
    old = timed(lambda: published_loop(denoiser, image, prompts, n), device) / n
    print(f"{device}, {dtype}, {options.resolution} x {options.resolution}, {n} draws, {batch} rows at once")
    print(f"published loop: {old:.3g} s per draw, {old * FULL:,.0f} s per image of {FULL:,} draws")
    print(
        f"here:           {new:.3g} s per draw, {new * FULL + encode:,.0f} s per image ({encode:.2g} s of it encoding)"
    )
    adaptive = new * options.adaptive_draws + encode
    print(
        f"ratio {old * FULL / (new * FULL + encode):.2f}; at {options.adaptive_draws} draws {old * FULL / adaptive:.1f}"
    )
    print(f"peak memory here: {memory / 2**10:.2f} GiB")


if __name__ == "__main__":
    run(main)
