"""Groups of options that scripts share."""

import argparse

from igm.models.codec import DEFAULT_MODEL
from igm.resources import CONFIGS
from igm.settings import seed_number


def new_parser(description: str) -> argparse.ArgumentParser:
    """A parser whose help shows the defaults; abbreviations are not accepted, so that a typing error is one."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )


def add_model_options(parser: argparse.ArgumentParser, config: str) -> argparse._ArgumentGroup:
    """Network, schedule and codec; `config` is the folder under configs/ that the defaults come from."""
    group = parser.add_argument_group("model")
    group.add_argument("--unet_config", default=str(CONFIGS / config / "unet"), help="network config")
    group.add_argument(
        "--scheduler_config",
        default=str(CONFIGS / config / "scheduler" / "scheduler_config.json"),
        help="noise schedule",
    )
    group.add_argument("--pretrained_model_name", help=f"folder or hub id of the codec (hub default: {DEFAULT_MODEL})")
    group.add_argument("--local_files_only", action="store_true", help="never ask the hub")
    return group


def add_run_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Seed, precision and places that every script has."""
    group = parser.add_argument_group("run")
    group.add_argument("--seed", type=seed_number, default=42, help="the same seed gives the same numbers")
    group.add_argument("--mixed_precision", choices=("no", "fp16", "bf16"), default="no", help="network's arithmetic")
    group.add_argument("--allow_tf32", action="store_true", help="TF32 matrix products on Ampere and later GPUs")
    group.add_argument("--output_dir", default="outputs", help="results go to <output_dir>/<tracker_project_name>")
    group.add_argument("--tracker_project_name", help="name of the run and of its folder")
    add_dry_run_option(group)
    return group


def add_dry_run_option(group: argparse._ActionsContainer) -> None:
    """`--dry_run`, which every script has."""
    group.add_argument("--dry_run", action="store_true", help="print options, data, parameters and memory, and stop")
