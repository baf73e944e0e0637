"""Turn a training checkpoint into a folder to ship: averaged weights in float16, schedule, codec, facts.

Example:
    python scripts/export_model.py --checkpoint outputs/clevr-mini/checkpoint-7000 --output_dir models/pretrained/clevr-mini
"""

import dataclasses
from pathlib import Path

import torch

from igm.cli.groups import add_dry_run_option, new_parser
from igm.cli.launch import run
from igm.dry_run import describe, parts_of, size_of
from igm.models.denoiser import Denoiser
from igm.training.checkpoints import tidy_configs


def main() -> None:
    parser = new_parser(__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="a checkpoint-<step> folder")
    parser.add_argument("--pretrained_model_name", help="codec, where the checkpoint's own is elsewhere now")
    parser.add_argument("--output_dir", required=True, help="folder to write")
    add_dry_run_option(parser)
    options = parser.parse_args()
    denoiser = Denoiser.from_pretrained(options.checkpoint, codec=options.pretrained_model_name)
    if options.dry_run:
        return describe(vars(options), {}, parts_of(denoiser), {"weights": 4 * size_of(denoiser)})
    denoiser.facts = dataclasses.replace(denoiser.facts, codec=None)  # it is in the folder
    denoiser.network.to(torch.float16)
    denoiser.save_pretrained(options.output_dir)
    tidy_configs(options.output_dir)
    size = sum(file.stat().st_size for file in Path(options.output_dir).rglob("*") if file.is_file())
    print(f"{options.output_dir}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    run(main)
