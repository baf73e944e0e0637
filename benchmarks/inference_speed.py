"""The published inference, `gradient` and `pursuit` side by side: same weights, same images, same machine, one run.

The published procedure takes one image at a time, encodes it in every step, evaluates the network for K concepts and
unconditionally, and starts again for every start. It is timed on `--published_steps` steps per image and extrapolated to
all steps of every start; its accuracy is that of `gradient`, which descends the same error from the same starts. Every
method runs in a process of its own, so that its peak memory is its own.

Examples:
    python benchmarks/inference_speed.py --dataset_root DIR --num_images 10
    python benchmarks/inference_speed.py --dataset_root DIR --mixed_precision bf16   also in half precision
    python benchmarks/inference_speed.py --dataset_root DIR --growth       how pursuit grows with K, images, candidates
"""

import argparse
import dataclasses
import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from measure import peak_memory, synchronize
from torch.utils.flop_counter import FlopCounterMode

from igm.cli.launch import run
from igm.cli.options import Parser
from igm.data import DataError
from igm.data.clevr import Clevr
from igm.devices import best_device
from igm.inference.gradient import CLIP_NORM, START_MEAN, START_STD, infer_gradient
from igm.inference.method import encode_images
from igm.inference.pursuit import infer_pursuit
from igm.inference.separable import SeparableSearch, infer_known
from igm.inference.settings import GradientSettings, PursuitSettings
from igm.inference.types import Inferred, Posterior
from igm.matching import match_points, num_within
from igm.models.denoiser import Denoiser
from igm.resources import PRETRAINED
from igm.settings import int_range, not_negative, positive

T_RANGE = (0, 500)
REFINEMENT_STEPS = PursuitSettings().for_network(separable=False).num_steps


def published_steps(denoiser: Denoiser, image: torch.Tensor, k: int, num_steps: int, seed: int) -> torch.Tensor:
    """The published loop (`infer_clevr.py`) for one image (1, 3, R, R) and one start: positions (1, K, 2)."""
    torch.manual_seed(seed)
    device = image.device
    conds = (START_MEAN + START_STD * torch.randn(1, k, 2, device=device)).requires_grad_()
    optimizer = torch.optim.AdamW([conds], lr=4e-3, weight_decay=1e-2)
    rows = torch.arange(k + 1, device=device)
    for _ in range(num_steps):
        with torch.no_grad():
            mean, std = denoiser.codec.posterior(image)
        x_0 = mean + std * torch.randn_like(mean)
        t, eps = torch.randint(*T_RANGE, (1,), device=device), torch.randn_like(x_0)
        x_t = denoiser.add_noise(x_0, eps, t)
        every = torch.cat([conds[0], torch.zeros(1, 2, device=device)])  # (K + 1, 2), the last without a condition
        predictions = denoiser.predict_pairs(x_t.expand(k + 1, -1, -1, -1), t.expand(k + 1), every, rows)
        unconditional = predictions[k:]
        composed = unconditional + (predictions[:k] - unconditional).sum(0, keepdim=True) / k
        loss = (denoiser.target(x_0, eps, t) - composed).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([conds], CLIP_NORM)
        optimizer.step()
        conds.data.clamp_(0, 1)
    return conds.detach()


def load(options: argparse.Namespace, checkpoint: str = "") -> tuple[Denoiser, dict[str, list]]:
    """The denoiser, and each group's images as (pixels (1, 3, R, R), true positions (K, 2))."""
    denoiser = Denoiser.from_pretrained(checkpoint or options.checkpoint).to(best_device())
    groups = {}
    for low, high in options.object_counts:
        dataset = Clevr(options.dataset_root, "val", (low, high), denoiser.resolution, max_images=options.num_images)
        items = [dataset[i] for i in range(len(dataset))]
        groups[f"{low}-{high}"] = [
            (item["pixel_values"][None].to(denoiser.device), item["conds"][item["mask"] > 0]) for item in items
        ]
    return denoiser, groups


def make_method(name: str, denoiser: Denoiser, options: argparse.Namespace) -> Callable[..., Inferred]:
    """(posterior, counts, image_numbers, changes of the settings) -> Inferred."""
    if name == "pursuit":
        function = infer_known if denoiser.is_separable else infer_pursuit
        settings = PursuitSettings(seed=options.seed).for_network(denoiser.is_separable)
    else:
        starts = 1 if name == "gradient, 1 start" else options.num_inits
        sizes = {"num_inits": starts, "num_steps": options.num_steps}
        function, settings = infer_gradient, GradientSettings(t_range=T_RANGE, seed=options.seed, **sizes)

    def infer(posterior: Posterior, counts: torch.Tensor, image_numbers: list[int], **changes) -> Inferred:
        own = dataclasses.replace(settings, **changes)
        batching = {"image_numbers": image_numbers, "batch_size": options.batch_size}
        return function(denoiser, posterior, counts, own, **batching)

    return infer


def count_flop(function: Callable[[int], object], steps: int) -> float:
    """FLOP of `steps` steps: everything is linear in them, so that two short runs tell."""
    totals = []
    for few in (1, 2):
        with FlopCounterMode(display=False) as counter:
            function(few)
        totals.append(counter.get_total_flops())
    return totals[0] + (steps - 1) * (totals[1] - totals[0])


def measure(name: str, options: argparse.Namespace) -> list[dict]:
    """One row per group: perception rate, rows, FLOP, seconds and memory per image."""
    torch.set_num_threads(options.num_threads)
    label = name
    name, _, checkpoint = name.partition(" of ")
    name, _, precision = name.partition(" in ")
    denoiser, groups = load(options, checkpoint)
    denoiser.requires_grad_(False)
    denoiser.precision = precision or "no"
    before, rows = peak_memory(denoiser.device), []
    for group, images in groups.items():
        one = measure_published if name == "published" else measure_own
        row = one(name, denoiser, images, options)
        memory = peak_memory(denoiser.device) - before
        rows.append({"method": label, "group": group, **row, "memory": memory})
    return rows


def measure_published(name: str, denoiser: Denoiser, images: list, options: argparse.Namespace) -> dict:
    """Time and count the published loop on a part of its steps; per image, all steps of all starts."""
    steps, total = options.published_steps, options.num_steps * options.num_inits
    started = time.perf_counter()
    for image, true in images:
        published_steps(denoiser, image, len(true), steps, options.seed)
    synchronize(denoiser.device)
    seconds = (time.perf_counter() - started) / len(images) / steps * total
    ks = [len(true) for _, true in images]
    encode = count_flop(lambda n: [denoiser.codec.posterior(images[0][0]) for _ in range(n)], total)
    flop = {k: count_flop(lambda n, k=k: published_steps(denoiser, images[0][0], k, n, 0), total) for k in set(ks)}
    mean = sum(flop[k] for k in ks) / len(ks) - encode
    rows = total * (sum(ks) / len(ks) + 1)
    return {"found": None, "forward": rows, "backward": rows, "flop": mean, "seconds": seconds}


def measure_own(name: str, denoiser: Denoiser, images: list, options: argparse.Namespace) -> dict:
    """Run a method in full on every image."""
    infer = make_method(name, denoiser, options)
    found = objects = forward = backward = 0
    started = time.perf_counter()
    for first in range(0, len(images), options.images_per_batch):
        batch = images[first : first + options.images_per_batch]
        numbers = list(range(first, first + len(batch)))
        counts = torch.tensor([len(true) for _, true in batch])
        result = infer(encode_images(denoiser, torch.cat([x for x, _ in batch])), counts, image_numbers=numbers)
        forward, backward = forward + float(result.forward.sum()), backward + float(result.backward.sum())
        for row, (_, true) in zip(result.conds.cpu().numpy(), batch, strict=True):
            found += int(num_within([match_points(row[: len(true)], true.numpy())[2]], 0.05)[0])
            objects += len(true)
    synchronize(denoiser.device)
    seconds = (time.perf_counter() - started) / len(images)
    flop = mean_flop(infer, denoiser, images, options.num_steps if name.startswith("gradient") else REFINEMENT_STEPS)
    closed_form = name == "pursuit" and denoiser.is_separable
    failures = count_search_failures(denoiser, images, options) if closed_form else None
    n = len(images)
    return {
        "found": found / objects,
        "forward": forward / n,
        "backward": backward / n,
        "flop": flop,
        "seconds": seconds,
        "search_failures": failures,
    }


@torch.no_grad()
def count_search_failures(denoiser: Denoiser, images: list, options: argparse.Namespace) -> int:
    """In how many images the true positions, refined, have an error lower by a thousandth than those that the search found.

    What is then missed is missed by the search, and in all other images by the network.
    """
    failures = 0
    for number, (image, true) in enumerate(images):
        posterior = encode_images(denoiser, image)
        search = SeparableSearch(denoiser, posterior, PursuitSettings(seed=options.seed), [number])
        found = search.known(torch.tensor([len(true)]))[0]
        failures += bool(search.from_positions(true).error < found.error * (1 - 1e-3))
    return failures


def mean_flop(infer: Callable[..., Inferred], denoiser: Denoiser, images: list, steps: int) -> float:
    """FLOP of the network per image, by the number of objects."""
    by_count = {}
    for image, true in images:
        k = len(true)
        if k not in by_count:
            posterior = encode_images(denoiser, image)
            if denoiser.is_separable and steps == REFINEMENT_STEPS:  # how far it searches depends on the image
                by_count[k] = count_flop(lambda n, p=posterior, k=k: infer(p, torch.tensor([k]), [0]), 1)
            else:
                by_count[k] = count_flop(
                    lambda n, p=posterior, k=k: infer(p, torch.tensor([k]), [0], num_steps=n), steps
                )
    return sum(by_count[len(true)] for _, true in images) / len(images)


def in_own_process(function: Callable, *args) -> object:
    """The result of a function in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


def print_comparison(rows: list[dict]) -> None:
    """The table, each method against the published procedure of the same group."""
    reference = {row["group"]: row for row in rows if row["method"] == "published"}
    print(
        "| Method | Objects | Within 0.05 | Search failures | Forward | Backward rows | TFLOP | Seconds "
        "| FLOP, time ratio | MiB |"
    )
    print("| :-- | :-- | --: | --: | --: | --: | --: | --: | --: | --: |")
    for row in rows:
        base = reference[row["group"]]
        found = "as gradient" if row["found"] is None else f"{row['found']:.1%}"
        failures = row.get("search_failures")
        ratios = f"{base['flop'] / row['flop']:.0f}x, {base['seconds'] / row['seconds']:.0f}x"
        print(
            f"| {row['method']} | {row['group']} | {found} | {'' if failures is None else failures} "
            f"| {row['forward']:,.0f} | {row['backward']:,.0f} "
            f"| {row['flop'] / 1e12:.3g} | {row['seconds']:,.1f} | {ratios} | {row['memory']:.0f} |"
        )


def growth(options: argparse.Namespace) -> list[tuple[str, int, float, float]]:
    """Seconds and TFLOP per image of pursuit against K, the number of images in a batch, and of candidates."""
    torch.set_num_threads(options.num_threads)
    denoiser, groups = load(options)
    denoiser.requires_grad_(False)
    pixels = torch.cat([image for images in groups.values() for image, _ in images])
    infer = make_method("pursuit", denoiser, options)
    table = []

    def record(what: str, value: int, images: int, k: int, **settings) -> None:
        posterior = encode_images(denoiser, pixels[torch.arange(images) % len(pixels)])
        counts, numbers = torch.full((images,), k), list(range(images))
        started = time.perf_counter()
        infer(posterior, counts, numbers, **settings)
        synchronize(denoiser.device)
        seconds = (time.perf_counter() - started) / images
        flop = count_flop(
            lambda n: infer(posterior[:1], counts[:1], numbers[:1], num_steps=n, **settings), REFINEMENT_STEPS
        )
        table.append((what, value, seconds, flop / 1e12))

    for k in range(3, 11):
        record("objects K", k, 1, k)
    for images in (1, 4, 16, 64):
        record("images in a batch", images, images, 5)
    for candidates in (64, 128, 256, 512, 1024):
        record("candidates", candidates, 1, 5, num_candidates=candidates)
    return table


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--dataset_root", required=True, help="folder of CLEVR_v1.0 (its val split is used)")
    parser.add_argument("--checkpoint", default=str(PRETRAINED / "clevr-mini"))
    parser.add_argument("--no_gradient", action="store_true", help="leave out gradient, which takes most of the time")
    parser.add_argument("--other", help="another checkpoint, such as an earlier network, for two further rows")
    parser.add_argument("--mixed_precision", choices=("bf16", "fp16"), help="two further rows, of such a network")
    parser.add_argument("--object_counts", type=int_range, nargs="+", default=[(3, 5), (6, 8)], help="one group each")
    parser.add_argument("--num_images", type=positive, default=10, help="per group")
    parser.add_argument("--num_inits", type=positive, default=10, help="starts of the published procedure and gradient")
    parser.add_argument(
        "--num_steps", type=positive, default=2000, help="steps of the published procedure and gradient"
    )
    parser.add_argument("--published_steps", type=positive, default=20, help="steps per image that are timed")
    parser.add_argument("--images_per_batch", type=positive, default=5, help="of gradient and pursuit")
    parser.add_argument("--batch_size", type=positive, default=1024, help="most network rows at once")
    parser.add_argument("--num_threads", type=positive, default=torch.get_num_threads(), help="on the CPU")
    parser.add_argument("--seed", type=not_negative, default=42)
    parser.add_argument("--growth", action="store_true", help="how pursuit grows, instead of the comparison")
    parser.add_argument("--output", type=Path, help="also write the numbers to this JSON file")
    options = parser.parse_args()
    if options.growth:
        table = in_own_process(growth, options)
        print("| | | Seconds per image | TFLOP per image |\n| :-- | --: | --: | --: |")
        print("\n".join(f"| {what} | {value} | {s:.2f} | {flop:.3f} |" for what, value, s, flop in table))
    else:
        table = []
        names = ["published", "pursuit"]
        names += [] if options.no_gradient else ["gradient, 1 start", f"gradient, {options.num_inits} starts"]
        names += [f"{name} in {options.mixed_precision}" for name in names[:2]] if options.mixed_precision else []
        names += [f"{name} of {options.other}" for name in ("published", "pursuit")] if options.other else []
        for name in names:
            table += in_own_process(measure, name, options)
            print(json.dumps(table[-len(options.object_counts) :]), file=sys.stderr, flush=True)
        print_comparison(table)
    if options.output:
        options.output.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    run(main, DataError)
