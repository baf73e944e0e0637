"""Fit the linear codec of a small model: principal components of image patches.

Example:
    python scripts/fit_codec.py --dataset_root DIR --output_dir outputs/clevr-codec
    python scripts/fit_codec.py --dataset celeba --dataset_root DIR --latent_channels 48 --output_dir outputs/celeba-codec
"""

from pathlib import Path

import torch
from tqdm import tqdm

from igm.cli.groups import add_dry_run_option, new_parser
from igm.cli.launch import run
from igm.data import DataError
from igm.data.celeba import CelebA
from igm.data.clevr import Clevr
from igm.dry_run import describe
from igm.models.codec import PatchPCA
from igm.settings import positive

DATASETS = {"clevr": Clevr, "celeba": CelebA}  # their training images, as the training scripts read them by default


def main() -> None:
    parser = new_parser(__doc__.splitlines()[0])
    parser.add_argument("--dataset", choices=sorted(DATASETS), default="clevr", help="what the folder holds")
    parser.add_argument("--dataset_root", required=True, help="folder of the dataset")
    parser.add_argument("--resolution", type=positive, default=64, help="images are resized to this square")
    parser.add_argument("--patch_size", type=positive, default=8, help="side of a patch in pixels")
    parser.add_argument("--latent_channels", type=positive, default=24, help="components kept")
    parser.add_argument(
        "--whitening", type=float, default=0.5, help="0 keeps the proportions of pixels, 1 equal variances"
    )
    parser.add_argument("--max_images", type=positive, default=5000, help="images used")
    parser.add_argument("--output_dir", required=True, help="the codec goes to <output_dir>/vae")
    add_dry_run_option(parser)
    options = parser.parse_args()
    dataset_class = DATASETS[options.dataset]
    dataset = dataset_class(options.dataset_root, resolution=options.resolution, max_images=options.max_images)
    codec = PatchPCA(options.patch_size, options.latent_channels, options.whitening)
    if options.dry_run:
        held = 4 * 3 * options.resolution**2 * len(dataset)
        memory = {"images": held, "with their mirror images": 2 * held}
        return describe(vars(options), {"training": len(dataset)}, {"codec": codec}, memory)
    images = torch.stack([dataset[i]["pixel_values"] for i in tqdm(range(len(dataset)), "reading")])
    kept = codec.fit(torch.cat([images, images.flip(-1)]))
    codec.save_pretrained(Path(options.output_dir) / "vae")
    print(f"{kept:.1%} of the variance of {len(images):,} images kept; saved {options.output_dir}/vae")


if __name__ == "__main__":
    run(main, DataError)
