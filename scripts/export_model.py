"""Turn a training checkpoint into a folder to ship: averaged weights in float16, schedule, codec, facts.

Examples:
    python scripts/export_model.py --checkpoint outputs/clevr-mini/checkpoint-7000 --output_dir models/pretrained/clevr-mini
    python scripts/export_model.py --checkpoint outputs/celeba/checkpoint-50000 --output_dir shipped --dry_run
"""

import dataclasses
from dataclasses import dataclass

from igm.cli.launch import run
from igm.cli.options import Parser, take
from igm.dry_run import describe, parts_of, size_of
from igm.models.denoiser import Denoiser
from igm.settings import Settings, path, setting
from igm.training.export import export_denoiser


@dataclass(frozen=True, kw_only=True)
class ExportSettings(Settings):
    """What is exported, and where to."""

    checkpoint: str = setting(help="a checkpoint-<step> folder", kind=path)
    pretrained_model_name: str | None = setting(
        None, "codec, where the checkpoint's own is elsewhere now (default: the one it was trained with)", kind=path
    )
    output_dir: str = setting(help="folder to write", kind=path)
    partner: str | None = setting(None, "model of the same scenes that goes with it: one that draws, or one that finds")
    dry_run: bool = setting(False, "print options, parameters and memory, and stop")


def main() -> None:
    parser = Parser(__doc__ or "")
    parser.add("export", ExportSettings)
    settings = take(parser.read(), ExportSettings)
    denoiser = Denoiser.from_pretrained(settings.checkpoint, codec=settings.pretrained_model_name)
    if settings.dry_run:
        return describe(vars(settings), {}, parts_of(denoiser), {"weights": 4 * size_of(denoiser)})
    if settings.partner is not None:
        denoiser.facts = dataclasses.replace(denoiser.facts, partner=settings.partner)
    size = export_denoiser(denoiser, settings.output_dir)
    print(f"{settings.output_dir}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    run(main)
