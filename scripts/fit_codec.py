"""Fit the linear codec of a small model: principal components of image patches.

A training does the same by itself where `--pretrained_model_name` is a codec's config without weights.

Examples:
    python scripts/fit_codec.py --dataset_root DIR --output_dir outputs/clevr-codec
    python scripts/fit_codec.py --task attributes --dataset_root DIR --latent_channels 48 --output_dir outputs/celeba-codec
"""

from dataclasses import dataclass
from pathlib import Path

from igm.cli.launch import run
from igm.cli.options import Parser, take
from igm.data import DataError, find_dataset
from igm.dry_run import describe
from igm.models.codec import PatchPCA
from igm.settings import SettingError, Settings, path, positive, setting, share, side
from igm.training.codecs import MOST_IMAGES, fit_codec
from igm.training.export import replace_folder


@dataclass(frozen=True, kw_only=True)
class CodecSettings(Settings):
    """Which pictures a codec is fitted to, and its shape."""

    dataset_root: str = setting(help="folder of the dataset, of which the training images are taken", kind=path)
    task: str = setting("positions", "kind of concept, which tells how to read it", choices=("positions", "attributes"))
    resolution: int = setting(64, "images are resized to this square", kind=side)
    max_images: int = setting(MOST_IMAGES, "images used", kind=positive)
    patch_size: int = setting(8, "side of a patch in pixels", kind=side)
    latent_channels: int = setting(24, "components kept", kind=positive)
    whitening: float = setting(0.5, "0 keeps the proportions of pixels, 1 equal variances", kind=share)
    output_dir: str = setting(help="the codec goes to <output_dir>/vae", kind=path)
    dry_run: bool = setting(False, "print options, data, parameters and memory, and stop")

    def check(self) -> None:
        """Raise SettingError where a patch does not fit, or has fewer values than components."""
        if self.resolution % self.patch_size:
            raise SettingError("resolution", self.resolution, f"must be a multiple of --patch_size {self.patch_size}")
        if self.latent_channels > 3 * self.patch_size**2:
            most = 3 * self.patch_size**2
            raise SettingError("latent_channels", self.latent_channels, f"a patch has {most} values; ask for fewer")


def main() -> None:
    parser = Parser(__doc__ or "")
    parser.add("codec", CodecSettings)
    s = take(parser.read(), CodecSettings)
    dataset = find_dataset(s.dataset_root, s.task)(s.dataset_root, resolution=s.resolution, max_images=s.max_images)
    codec = PatchPCA(s.patch_size, s.latent_channels, s.whitening)
    if s.dry_run:
        held = 4 * 3 * s.resolution**2 * len(dataset)
        memory = {"images": held, "with their mirror images": 2 * held}
        return describe(vars(s), {"training": len(dataset)}, {"codec": codec}, memory)
    kept = fit_codec(codec, dataset)
    replace_folder(Path(s.output_dir) / "vae", codec.save_pretrained)
    print(f"{kept:.1%} of the variance of {len(dataset):,} images kept; saved {s.output_dir}/vae")


if __name__ == "__main__":
    run(main, DataError)
