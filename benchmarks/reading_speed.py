"""Images per second that a dataset reads, decodes and resizes: the pace of a first epoch, and of training on pixels.

python benchmarks/reading_speed.py                          drawn faces (JPEG, 178x218) to 128x128
python benchmarks/reading_speed.py --dataset_root celeba
"""

import time

import torch
from torch.utils.data import DataLoader

from igm.cli.launch import run
from igm.cli.options import Parser
from igm.data import DataError
from igm.data.celeba import CelebA
from igm.data.samples import sample_faces
from igm.settings import positive

BATCH, WARM_UP = 64, 2  # images per batch; batches before the clock starts, while the processes start


def images_per_second(dataset: CelebA, num_workers: int) -> float:
    """The pace of a loader with so many processes."""
    loader = DataLoader(dataset, batch_size=BATCH, num_workers=num_workers)
    for number, batch in enumerate(loader):
        if number < WARM_UP:
            started, images = time.perf_counter(), 0
        else:
            images += len(batch["pixel_values"])
    return images / (time.perf_counter() - started)


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--dataset_root", help="folder of CelebA; without it, drawn faces")
    parser.add_argument("--resolution", type=positive, default=128, help="side of the square")
    parser.add_argument("--num_images", type=positive, default=5000, help="faces read")
    parser.add_argument("--num_workers", type=positive, default=2, help="loader processes")
    parser.add_argument("--num_rounds", type=positive, default=3, help="times that each pace is measured")
    options = parser.parse_args()
    torch.set_num_threads(1)
    root = options.dataset_root or sample_faces(options.num_images // 2)
    split = "train" if options.dataset_root else "test"  # the drawn ones are all of the test split
    dataset = CelebA(root, split, "all", resolution=options.resolution, max_images=options.num_images)
    if len(dataset) <= (WARM_UP + 1) * BATCH:
        raise DataError(f"{len(dataset)} images are too few to time; give at least {(WARM_UP + 1) * BATCH + 1}")
    for workers in (0, options.num_workers):
        paces = [images_per_second(dataset, workers) for _ in range(options.num_rounds)]
        name = f"{workers} processes" if workers else "in the training process"
        print(f"{name}: {', '.join(f'{pace:,.0f}' for pace in sorted(paces))} images/s")


if __name__ == "__main__":
    run(main, DataError)
