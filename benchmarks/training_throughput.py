"""Images per second and FLOP per image of a training step: the published one against this project's.

Published: pixels are read and encoded in every step, all slots of an image go through the network whether they hold a
concept or not, and so does an unconditional concept; batches are not shuffled. Project: cached posteriors, only real
concepts, one-token cross-attention as an addition, fused optimizer. Both start from the same weights and take the same
number of images per step, in one run on one machine. Networks have their full size and random weights.

Example:
    python benchmarks/training_throughput.py --batch_size 16 --num_steps 3
"""

import argparse
import contextlib
import copy
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from measure import use_plain_attention
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from igm.cli.launch import run
from igm.cli.options import Parser
from igm.data.images import decode_image, image_to_tensor
from igm.devices import compiler_works, usable_precision
from igm.models.codec import Codec, KLCodec
from igm.models.denoiser import Denoiser, build_denoiser
from igm.resources import CONFIGS
from igm.settings import not_negative, positive
from igm.training.batches import Share
from igm.training.compositional import CompositionalLearner
from igm.training.latent_cache import CachedLatents, build_cache
from igm.training.loop import make_loader, prepare, to_device
from igm.training.settings import TrainSettings

PARTS = ("load", "encode", "forward", "backward", "optimizer")


@dataclass(frozen=True)
class Task:
    """A full-size config with the shape of its data."""

    config: str
    resolution: int
    picture: tuple[int, int]  # width and height of the files
    suffix: str
    slots: int
    cond_size: int
    fewest: int  # concepts of an image: fewest to slots


TASKS = {
    "clevr": Task("clevr-2D-pos", 64, (480, 320), ".png", 5, 2, 3),
    "celeba": Task("celeba", 128, (178, 218), ".jpg", 3, 6, 3),
}


class Pictures(Dataset):
    """Random pictures on the disk in a task's format, with random concepts: all that the cost of a step depends on."""

    def __init__(self, task: Task, folder: Path, number: int):
        self.task, self.resolution = task, task.resolution
        generator = np.random.default_rng(0)
        self.paths = [folder / f"{task.config}-{i}{task.suffix}" for i in range(number)]
        for path in self.paths:
            coarse = generator.integers(0, 256, (10, 10, 3), np.uint8)
            Image.fromarray(coarse).resize(task.picture, Image.Resampling.BICUBIC).save(path)
        self.conds = torch.from_numpy(generator.random((number, task.slots, task.cond_size), np.float32))
        self.counts = generator.integers(task.fewest, task.slots + 1, number)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> dict:
        return {"pixel_values": image_to_tensor(decode_image(self.paths[i]), self.resolution), **self.annotation(i)}

    def annotation(self, i: int) -> dict:
        """All but the pixels."""
        mask = (torch.arange(self.task.slots) < int(self.counts[i])).float()
        return {"conds": self.conds[i], "mask": mask, "image_id": self.paths[i].stem}

    def fingerprint(self) -> str:
        """Names the cache, which lives in this run's own folder."""
        return self.task.config


class Clock:
    """Seconds by part; the device is waited for at the ends of a part only where parts are timed.

    On a CPU they are processor time divided by the number of threads, so that other work on the machine does not count.
    """

    def __init__(self, device: torch.device, timed: bool):
        self.device, self.timed, self.seconds = device, timed, defaultdict(float)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time the block."""
        started = self.now()
        yield
        if self.timed:
            self.wait()
        self.seconds[name] += self.now() - started

    def now(self) -> float:
        """Seconds since some moment."""
        on_cpu = self.device.type == "cpu"
        return time.process_time() / torch.get_num_threads() if on_cpu else time.perf_counter()

    def wait(self) -> None:
        """Until the device has done everything."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


Step = Callable[[Clock], None]


def published_prediction(
    denoiser: Denoiser, x_t: torch.Tensor, t: torch.Tensor, conds: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """u + sum_k mask_k / K (f_k - u) over all slots, with an unconditional pass u on zeros: (B, C, H, W)."""
    b, slots = mask.shape
    null = conds.new_zeros(b, 1, conds.shape[-1])
    unconditional = denoiser.network(x_t, t, encoder_hidden_states=null).sample.float()
    index = torch.arange(b, device=x_t.device).repeat_interleave(slots)
    tokens = conds.flatten(0, 1)[:, None]  # (B slots, 1, D)
    each = denoiser.network(x_t[index], t[index], encoder_hidden_states=tokens).sample.float().unflatten(0, (b, slots))
    weights = (mask / mask.sum(1, keepdim=True))[:, :, None, None, None]
    return unconditional + (weights * (each - unconditional[:, None])).sum(1)


def published_step(accelerator: Accelerator, denoiser: Denoiser, pictures: Pictures, s: TrainSettings) -> Step:
    """The published step: plain attention, images encoded, padded slots and an unconditional pass, not shuffled."""
    use_plain_attention(denoiser.network)
    denoiser.network.train().requires_grad_(True)
    denoiser.to(accelerator.device)
    optimizer = torch.optim.AdamW(denoiser.network.parameters(), lr=s.learning_rate)
    denoiser.network, optimizer = accelerator.prepare(denoiser.network, optimizer)
    batches = forever(lambda: DataLoader(pictures, s.train_batch_size, num_workers=s.dataloader_num_workers))

    def step(clock: Clock) -> None:
        with clock.part("load"):
            items = {k: v for k, v in next(batches).items() if k != "image_id"}
            items = to_device(items, accelerator.device)
        with clock.part("encode"), torch.no_grad():
            mean, std = denoiser.codec.posterior(items["pixel_values"])
            x_0 = mean + std * torch.randn_like(mean)
        with clock.part("forward"):
            eps = torch.randn_like(x_0)
            t = torch.randint(0, denoiser.num_timesteps, (len(x_0),), device=x_0.device)
            x_t = denoiser.add_noise(x_0, eps, t)
            prediction = published_prediction(denoiser, x_t, t, items["conds"], items["mask"])
            loss = (prediction - denoiser.target(x_0, eps, t)).square().mean()
        update(accelerator, denoiser, optimizer, loss, s, clock)

    return step


def project_step(accelerator: Accelerator, denoiser: Denoiser, cached: CachedLatents, s: TrainSettings) -> Step:
    """This project's step, from the functions that its training loop is made of."""
    learner = CompositionalLearner(denoiser)
    optimizer, _ = prepare(accelerator, learner, s, cached[0])
    batches = iter(make_loader(accelerator, learner, cached, s, Share(s.train_batch_size), 0))

    def step(clock: Clock) -> None:
        with clock.part("load"):
            batch = to_device(next(batches), accelerator.device)
        with clock.part("forward"):
            loss = learner.loss(batch)
        update(accelerator, denoiser, optimizer, loss, s, clock)

    return step


def update(accelerator, denoiser: Denoiser, optimizer, loss: torch.Tensor, s: TrainSettings, clock: Clock) -> None:
    """Backward pass, clipping and optimizer, as both have them."""
    with clock.part("backward"):
        accelerator.backward(loss)
    with clock.part("optimizer"):
        accelerator.clip_grad_norm_(denoiser.network.parameters(), s.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()


def forever(make: Callable[[], DataLoader]) -> Iterator[dict]:
    """Epoch after epoch."""
    while True:
        yield from make()


def stable_diffusion_codec() -> Codec:
    """The VAE of Stable Diffusion 2.1 in shape, with random weights."""
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
    )
    return KLCodec(vae).eval().requires_grad_(False)


def flop(step: Step, device: torch.device) -> float:
    """Floating point operations of one step (matrix products, convolutions, attention)."""
    with FlopCounterMode(display=False) as counter:
        step(Clock(device, timed=False))
    return counter.get_total_flops()


def measure(steps: dict[str, Step], device: torch.device, number: int, timed: bool) -> dict[str, list[Clock]]:
    """Run the methods in turn, `number` steps of each, so that other work on the machine meets both."""
    clocks = defaultdict(list)
    for _ in range(number):
        for name, step in steps.items():
            clock = Clock(device, timed)
            clock.wait()
            started = clock.now()
            step(clock)
            clock.wait()
            clock.seconds["step"] = clock.now() - started
            clocks[name].append(clock)
    return clocks


def benchmark(name: str, task: Task, options: argparse.Namespace, folder: Path, codec: Codec) -> list[str]:
    """Measure one config; return the rows of its table."""
    accelerator = Accelerator(
        cpu=options.device == "cpu", mixed_precision=usable_precision(options.mixed_precision, options.device)
    )
    device, config = accelerator.device, CONFIGS / task.config
    pictures = Pictures(task, folder, 2 * options.batch_size)
    cached = CachedLatents(pictures, build_cache(pictures, codec.to(device), folder, device=device))
    s = TrainSettings(
        max_train_steps=10**6,
        train_batch_size=options.batch_size,
        dataloader_num_workers=options.num_workers,
        compile=options.compile,
    )
    torch.manual_seed(0)
    project = build_denoiser(config / "unet", config / "scheduler" / "scheduler_config.json", codec)
    published = copy.deepcopy(project)  # the same weights
    if device.type == "cuda" and accelerator.mixed_precision != "no":
        published.codec.to({"fp16": torch.float16, "bf16": torch.bfloat16}[accelerator.mixed_precision])
    steps = {
        "published": published_step(accelerator, published, pictures, s),
        "project": project_step(accelerator, project, cached, s),
    }
    flops = {method: flop(step, device) / options.batch_size for method, step in steps.items()}  # warms up, too
    clocks = measure(steps, device, options.num_steps, timed=device.type == "cpu")
    parts = clocks if device.type == "cpu" else measure(steps, device, options.num_steps, timed=True)
    ratios = [a.seconds["step"] / b.seconds["step"] for a, b in zip(*clocks.values(), strict=True)]
    rows = []
    for method in steps:
        rate = options.batch_size / np.median([clock.seconds["step"] for clock in clocks[method]])
        times = [1000 * np.median([clock.seconds[part] for clock in parts[method]]) for part in PARTS]
        gain = f"{np.median(ratios):.2f} x" if method == "project" else ""
        cells = [name, method, f"{flops[method] / 1e9:.1f}", f"{rate:.2f}", gain]
        cells += [f"{milliseconds / options.batch_size:,.1f}" for milliseconds in times]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--tasks", nargs="+", choices=tuple(TASKS), default=list(TASKS), help="which configs")
    parser.add_argument("--batch_size", type=positive, default=16, help="images per step")
    parser.add_argument("--num_steps", type=positive, default=3, help="steps of each method, after one to warm up")
    parser.add_argument("--num_workers", type=not_negative, default=0, help="loader processes of both")
    parser.add_argument("--mixed_precision", choices=("no", "fp16", "bf16"), default="no", help="of both")
    parser.add_argument("--compile", action="store_true", help="torch.compile for the project's step")
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=default, help="where")
    options = parser.parse_args()
    options.compile = options.compile and compiler_works(torch.device(options.device))
    threads = f"CPU, {torch.get_num_threads()} threads, processor time"
    place = torch.cuda.get_device_name() if options.device == "cuda" else threads
    precision = usable_precision(options.mixed_precision, options.device)
    print(f"{place}, precision {precision}, batch {options.batch_size}, torch {torch.__version__}\n")
    print("| Config | Step | GFLOP/image | Images/s | Gain | " + " | ".join(f"{p} ms/image" for p in PARTS) + " |")
    print("| :-- | :-- | --: | --: | --: |" + " --: |" * len(PARTS))
    torch.manual_seed(0)
    codec = stable_diffusion_codec()
    with tempfile.TemporaryDirectory() as folder:
        for name in options.tasks:
            with contextlib.redirect_stdout(sys.stderr):  # what the cache says
                rows = benchmark(name, TASKS[name], options, Path(folder), codec)
            print("\n".join(rows), flush=True)


if __name__ == "__main__":
    run(main)
