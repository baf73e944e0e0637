"""Time per face of the published inference loop against this project's, on the same weights and machine.

The published loop takes one image at a time; in each draw it encodes the image and runs all 8 combinations of 3 concepts
through the whole network, 24 rows. Here the image is encoded once and 6 rows price all 8, of which small networks share
the trunk.

    python benchmarks/celeba_inference.py                    the shipped model on drawn faces
    python benchmarks/celeba_inference.py --full_size        the published architecture, random weights
"""

import argparse
import time

import torch
from diffusers import AutoencoderKL

from igm.cli.launch import run
from igm.data.celeba import CelebA
from igm.data.samples import sample_faces
from igm.devices import best_device
from igm.encoding import all_concepts
from igm.inference.discrete import OneOfEach, infer_discrete
from igm.inference.method import encode_images
from igm.inference.settings import DiscreteSettings
from igm.models.codec import KLCodec
from igm.models.denoiser import Denoiser, build_denoiser
from igm.resources import CONFIGS, PRETRAINED
from igm.settings import positive


@torch.no_grad()
def published_loop(denoiser: Denoiser, image: torch.Tensor, num_draws: int, generator: torch.Generator) -> torch.Tensor:
    """Denoising errors (8,) of all compositions of one image (1, 3, R, R), computed as the published code does."""
    bits = torch.cartesian_prod(*[torch.arange(2)] * 3) + torch.tensor([0, 2, 4])  # (8, 3)
    conds = all_concepts(3)[bits].flatten(0, 1).to(image.device)  # (24, 6)
    errors, rows = torch.zeros(8), torch.arange(24, device=image.device)
    for _ in range(num_draws):
        mean, std = denoiser.codec.posterior(image)
        x_0 = mean + std * torch.randn(mean.shape, generator=generator).to(mean)
        eps = torch.randn(x_0.shape, generator=generator).to(mean)
        t = torch.randint(0, denoiser.num_timesteps, (1,), generator=generator).to(image.device)
        x_t = denoiser.add_noise(x_0, eps, t).expand(24, -1, -1, -1)
        composed = denoiser.predict_pairs(x_t, t.expand(24), conds, rows).unflatten(0, (8, 3)).mean(1)  # (8, C, H, W)
        errors += (composed - denoiser.target(x_0, eps, t)).square().flatten(1).mean(1).cpu()
    return errors / num_draws


def full_size() -> Denoiser:
    """The published architecture at 128x128 with a VAE of Stable Diffusion's shape, random weights."""
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, **blocks)
    configs = CONFIGS / "celeba"
    denoiser = build_denoiser(configs / "unet", configs / "scheduler" / "scheduler_config.json", KLCodec(vae))
    return denoiser.eval().requires_grad_(False)


def timed(function) -> float:
    """Seconds of a call; the device has finished by then."""
    started = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default=str(PRETRAINED / "celeba-mini"))
    parser.add_argument("--full_size", action="store_true", help="published architecture, random weights")
    parser.add_argument("--num_images", type=positive, default=4)
    parser.add_argument("--num_draws", type=positive, default=100)
    parser.add_argument("--num_rounds", type=positive, default=3, help="the two take turns; the median round counts")
    parser.add_argument("--batch_size", type=positive, default=384, help="network rows at once")
    options = parser.parse_args()
    device = best_device()
    denoiser = (full_size() if options.full_size else Denoiser.from_pretrained(options.checkpoint)).to(device)
    faces = CelebA(sample_faces(20), "test", max_images=options.num_images, resolution=denoiser.resolution)
    images = torch.stack([face["pixel_values"] for face in faces]).to(device)

    def theirs() -> None:
        for image in images:
            published_loop(denoiser, image[None], options.num_draws, torch.Generator().manual_seed(0))

    def ours() -> None:
        posterior = encode_images(denoiser, images)
        settings, space = DiscreteSettings(num_draws=options.num_draws), OneOfEach([2, 2, 2])
        infer_discrete(denoiser, posterior, all_concepts(3), space, settings, batch_size=options.batch_size)

    rounds = torch.tensor([[timed(theirs), timed(ours)] for _ in range(options.num_rounds)]) / len(images)
    published, here = rounds.median(0).values.tolist()
    ratios = sorted((rounds[:, 0] / rounds[:, 1]).tolist())
    print(f"{options.num_draws} draws a face, {device}, {torch.get_num_threads()} threads")
    print(f"published loop {published:.3f} s/face, here {here:.3f} s/face")
    print(f"{published / here:.1f} times faster (rounds: {', '.join(f'{r:.1f}' for r in ratios)})")


if __name__ == "__main__":
    run(main)
