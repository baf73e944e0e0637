"""The full-size CLEVR network at inference: what one-token attention saves, and the memory that pricing candidates takes;
and a separable network of its width: a training step of both, and a whole inference in closed form.

Random weights: the costs do not depend on them, but for how long the closed-form search goes on. The rows in the network at
once (`--batch_size`) bound the memory of pricing.

Example:
    python benchmarks/full_size.py
"""

import time

import torch
from diffusers import DDPMScheduler
from measure import peak_memory, synchronize, use_plain_attention
from torch.utils.flop_counter import FlopCounterMode

from igm.cli.launch import run
from igm.cli.options import Parser
from igm.devices import best_device
from igm.error_matrix import ErrorMatrix
from igm.inference.draws import draw_for_images, image_generators
from igm.inference.pricing import price_draws
from igm.inference.separable import infer_known
from igm.inference.sets import candidate_grid
from igm.inference.settings import PursuitSettings
from igm.inference.types import Posterior
from igm.models.denoiser import Denoiser
from igm.models.unet import build_network, read_config
from igm.objective import Noise, composed_error
from igm.resources import CONFIGS
from igm.settings import positive


def full_size(name: str = "clevr-2D-pos") -> Denoiser:
    """The network of a folder of configs/ with random weights, without a codec."""
    config = CONFIGS / name
    network = build_network(read_config(config / "unet", "unet"))
    scheduler = DDPMScheduler.from_config(read_config(config / "scheduler" / "scheduler_config.json", "scheduler"))
    return Denoiser(network, scheduler).to(best_device()).eval()


def pricing_memory(denoiser: Denoiser, num_candidates: int, num_draws: int, batch_size: int) -> str:
    """The peak of pricing a grid of candidates, in words."""
    candidates, device = candidate_grid(num_candidates).to(denoiser.device), denoiser.device
    mean = torch.zeros(1, *denoiser.latent_shape, device=device)
    generators = image_generators(0, [0], stream=3)
    draws = draw_for_images(Posterior(mean, mean), num_draws, (0, 500), generators, stratified=True)[0]
    matrix = ErrorMatrix(1, len(candidates), device)
    before = peak_memory(device)
    price_draws(denoiser, matrix, 0, draws, candidates, batch_size)
    size = matrix.gram.numel() * 4 / 2**20
    return (
        f"pricing {len(candidates)} candidates x {num_draws} draws, {batch_size} rows at once: peak "
        f"{peak_memory(device):,.0f} MiB, {before:,.0f} before it, error matrix {size:.1f}"
    )


def forward_cost(denoiser: Denoiser, rows: int) -> tuple[float, float]:
    """GFLOP and processor or GPU seconds of one row's forward pass."""
    shape, device = denoiser.latent_shape, denoiser.device
    inputs = (torch.zeros(rows, *shape), torch.full((rows,), 300), torch.zeros(rows, 2), torch.arange(rows))
    inputs = [x.to(device) for x in inputs]
    with FlopCounterMode(display=False) as counter:
        denoiser.predict_pairs(*inputs)
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    started = clock()
    denoiser.predict_pairs(*inputs)
    synchronize(device)
    return counter.get_total_flops() / rows / 1e9, (clock() - started) / rows


def training_step(denoiser: Denoiser, images: int, concepts: int) -> tuple[float, float]:
    """GFLOP and processor or GPU seconds of a forward and a backward pass, per image of so many concepts."""
    device, number = denoiser.device, images * concepts
    x_0, conds = torch.zeros(images, *denoiser.latent_shape, device=device), torch.rand(number, 2, device=device)
    noise = Noise(torch.full((images,), 300, device=device), torch.randn_like(x_0))
    index = torch.arange(images, device=device).repeat_interleave(concepts)
    weights = torch.full((number,), 1 / concepts, device=device)
    with FlopCounterMode(display=False) as counter:
        composed_error(denoiser, x_0, noise, conds, weights, index).sum().backward()
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    started = clock()
    composed_error(denoiser, x_0, noise, conds, weights, index).sum().backward()
    synchronize(device)
    return counter.get_total_flops() / images / 1e9, (clock() - started) / images


def closed_form_cost(denoiser: Denoiser, num_draws: int, concepts: int) -> tuple[float, float]:
    """GFLOP and processor or GPU seconds of inferring the positions of so many objects in an image."""
    mean = torch.zeros(1, *denoiser.latent_shape, device=denoiser.device)
    settings, counts = PursuitSettings(num_draws=num_draws), torch.tensor([concepts])
    with FlopCounterMode(display=False) as counter:
        infer_known(denoiser, Posterior(mean, mean), counts, settings)
    clock = time.perf_counter if denoiser.device.type == "cuda" else time.process_time
    started = clock()
    infer_known(denoiser, Posterior(mean, mean), counts, settings)
    synchronize(denoiser.device)
    return counter.get_total_flops() / 1e9, clock() - started


def print_separable(published: Denoiser, num_draws: int, concepts: int = 4) -> None:
    """A training step of both networks, and an inference of the separable one."""
    separable = full_size("clevr-separable")
    for name, denoiser in {"published": published, "separable": separable}.items():
        gflop, seconds = training_step(denoiser, 4, concepts)
        size = sum(p.numel() for p in denoiser.network.parameters()) / 1e6
        print(f"training, {name} network, {size:.1f} M: {gflop:.1f} GFLOP and {seconds:.3f} s an image of {concepts}")
    gflop, seconds = closed_form_cost(separable, num_draws, concepts)
    print(f"separable, inference of {concepts} objects from {num_draws} draws: {gflop:.0f} GFLOP, {seconds:.2f} s")


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--rounds", type=positive, default=3, help="times both attentions are timed, in turn")
    parser.add_argument("--num_candidates", type=positive, default=256, help="of the grid")
    parser.add_argument("--num_draws", type=positive, default=32, help="noise draws")
    parser.add_argument("--batch_size", type=positive, default=256, help="network rows at once")
    options = parser.parse_args()
    torch.manual_seed(0)
    single = full_size()
    with torch.no_grad():
        print(pricing_memory(single, options.num_candidates, options.num_draws, options.batch_size))
        plain = full_size()
        plain.load_state_dict(single.state_dict())
        use_plain_attention(plain.network)
        costs = [(forward_cost(plain, 4), forward_cost(single, 4)) for _ in range(options.rounds)]
    ratio = sorted(a[1] / b[1] for a, b in costs)[options.rounds // 2]
    (gflop, _), (less, _) = costs[0]
    print_separable(single, 2 * options.num_draws)
    print(f"one-token attention: {less:.2f} of {gflop:.2f} GFLOP per row ({1 - less / gflop:.1%} fewer), {ratio:.2f}x")


if __name__ == "__main__":
    run(main)
