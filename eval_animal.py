"""Say which animals a picture shows, with a pretrained Stable Diffusion and no training; score and draw the answers.

Examples:
    python eval_animal.py                                           the pictures in data/animals
    python eval_animal.py --dataset_root photos --classes cat dog rabbit --num_objects 1-3
    python eval_animal.py --method igm diffusion_classifier dc_variant
"""

import argparse
import functools
from pathlib import Path

import torch

from igm import UserError, warn
from igm.baselines.diffusion_classifier import combinations, infer_dc_variant, infer_diffusion_classifier
from igm.cli.evaluation import add_evaluation_options, evaluation_settings, set_resolution
from igm.cli.groups import add_run_options, new_parser
from igm.cli.launch import run
from igm.cli.types import int_range, positive, probability
from igm.data import DataError
from igm.data.animals import Animals
from igm.data.unlabelled import Pictures
from igm.devices import best_device, compile_where_right, find_device
from igm.dry_run import describe_evaluation
from igm.evaluation.run import Infer, evaluate, finish
from igm.inference.discrete import Subsets, infer_discrete
from igm.models.codec import DEFAULT_MODEL
from igm.models.stable_diffusion import StableDiffusion, is_within_reach
from igm.resources import ANIMAL_PICTURES, PRETRAINED

SHIPPED = PRETRAINED / "animals-mini"
METHODS = ("igm", "diffusion_classifier", "dc_variant")
MOST_JOINT_PROMPTS = 10_000
DETERMINING = (
    *("dataset_root", "images", "classes", "prompt", "num_objects", "num_images", "num_draws", "confidence"),
    *("draws_per_round", "timestep_range"),
)


def parse_options() -> argparse.Namespace:
    """All options; argparse ends the program on a wrong one."""
    parser = new_parser(__doc__.splitlines()[0])
    group = parser.add_argument_group("data")
    group.add_argument("--dataset_root", default=str(ANIMAL_PICTURES), help="folder of images")
    group.add_argument("--images", nargs="+", help="instead: own pictures, or folders of them, without labels")
    group.add_argument("--classes", nargs="+", default=["cat", "dog", "rabbit"], help="what may be in a picture")
    group.add_argument("--num_objects", type=int_range, default=(2, 2), help="classes per picture; a range is inferred")
    group.add_argument("--num_images", type=positive, help="the first so many (default: all)")
    group.add_argument("--resolution", type=positive, help="default: the checkpoint's own")
    group.add_argument("--skip_bad_images", action="store_true", help="leave out unreadable images, and count them")
    group = parser.add_argument_group("inference")
    group.add_argument("--method", nargs="+", choices=METHODS, default=["igm"], help="several run one after the other")
    group.add_argument("--prompt", nargs="+", default=["a photo of a {}"], help="several: their predictions averaged")
    group.add_argument("--num_draws", type=positive, default=1000, help="noise draws per image, at most")
    group.add_argument("--draws_per_round", type=positive, default=20, help="between two looks at the confidence")
    group.add_argument(
        "--confidence", type=probability, default=0.99, help="stop drawing when so sure; 1: never stop early"
    )
    group.add_argument("--timestep_range", type=int, nargs=2, metavar=("LOW", "HIGH"), help="default: the model's own")
    group = parser.add_argument_group("model")
    group.add_argument("--local_files_only", action="store_true", help="never ask the hub")
    group.add_argument("--slicing", action="store_true", help="attention and VAE in parts: less memory, more time")
    group.add_argument("--cpu_offload", action="store_true", help="each part on the GPU only while it works")
    add_evaluation_options(parser, averaged=False)
    add_run_options(parser)
    parser.set_defaults(tracker_project_name="animals", images_per_batch=1, batch_size=None)
    return parser.parse_args()


def check_options(options: argparse.Namespace) -> None:
    """Find mistakes before data and model are read.

    Raises:
        UserError: in one line, with the mend.
    """
    classes, (low, high) = options.classes, options.num_objects
    twice = {name for name in classes if [c.lower() for c in classes].count(name.lower()) > 1}
    if twice:
        raise UserError(f"--classes names {sorted(twice)[0]} twice; name each class once")
    if len(classes) < 2:
        raise UserError(f"--classes {classes[0]} leaves nothing to choose; name at least two")
    if high > len(classes):
        raise UserError(f"--num_objects {low}-{high} is more than the {len(classes)} --classes; lower it")
    for template in options.prompt:
        if template.count("{}") != 1 or template.replace("{}", "").count("{"):
            raise UserError(f"--prompt '{template}' must hold {{}} once, where the class goes: 'a photo of a {{}}'")
    if low < high and "diffusion_classifier" in options.method:
        raise UserError("--method diffusion_classifier takes the lowest n classes, n known; give one --num_objects")
    if "dc_variant" in options.method and len(combinations(len(classes), (low, high))) > MOST_JOINT_PROMPTS:
        raise UserError("--method dc_variant needs a prompt for every combination, too many here; use --method igm")
    given = options.timestep_range
    if given and not 0 <= given[0] < given[1] <= 1000:
        raise UserError(f"--timestep_range {given[0]} {given[1]} must go upwards within 0 to 1000")


def choose_checkpoint(options: argparse.Namespace) -> str:
    """The model to run: the one named, else the default of `models/codec.py`, else the shipped small one."""
    if options.checkpoint:
        return options.checkpoint
    if is_within_reach(DEFAULT_MODEL, options.local_files_only):
        if best_device().type == "cpu":
            warn(f"{DEFAULT_MODEL} takes many minutes per image on a CPU; --checkpoint {SHIPPED.name} is quick")
        return DEFAULT_MODEL
    print(f"{DEFAULT_MODEL} is not in the local cache and the hub does not answer: running the small {SHIPPED.name}")
    return str(SHIPPED)


def load_model(options: argparse.Namespace, checkpoint: str) -> StableDiffusion:
    """The pipeline on the device asked for, in the precision asked for."""
    return StableDiffusion.from_pretrained(
        SHIPPED if checkpoint == SHIPPED.name else checkpoint,
        dtype={"fp16": torch.float16, "bf16": torch.bfloat16}.get(options.mixed_precision, torch.float32),
        device=find_device(options.device),
        slicing=options.slicing,
        cpu_offload=options.cpu_offload,
        local_files_only=options.local_files_only,
    )


def encode(denoiser: StableDiffusion, templates: list[str], things: list[str]) -> torch.Tensor:
    """Prompts of all things (P, L, D), or (P, T, L, D) for T templates."""
    tokens = [denoiser.encode_prompts([template.format(thing) for thing in things]) for template in templates]
    return tokens[0] if len(tokens) == 1 else torch.stack(tokens, dim=1)


def in_words(names: list[str]) -> str:
    """ "cat", "cat and a dog", "cat, a dog and a rabbit": what follows the template's own article."""
    return " and a ".join([", a ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def choose_method(options: argparse.Namespace, denoiser: StableDiffusion, method: str) -> Infer:
    """The inference function with its prompts and settings filled in."""
    m, sizes = len(options.classes), options.num_objects
    common = {
        "num_draws": options.num_draws,
        "draws_per_round": options.draws_per_round,
        "confidence": options.confidence if options.confidence < 1 else None,
        "t_range": tuple(options.timestep_range or denoiser.meta.get("t_range", (0, denoiser.num_timesteps))),
        "seed": options.seed,
    }
    if method == "dc_variant":
        members = combinations(m, sizes)
        joint = encode(denoiser, options.prompt, [in_words([options.classes[i] for i in c]) for c in members])
        infer = functools.partial(infer_dc_variant, candidates=joint, members=members, labels=torch.eye(m), **common)
    else:
        prompts = encode(denoiser, options.prompt, options.classes)
        common |= {"candidates": prompts, "labels": torch.eye(m)}
        if method == "diffusion_classifier":
            infer = functools.partial(infer_diffusion_classifier, **common)
        else:
            infer = functools.partial(infer_discrete, space=Subsets(m, sizes), **common)

    def run_method(posterior, num_concepts, **rest):
        if method == "diffusion_classifier":
            rest["num_concepts"] = torch.full((len(posterior),), sizes[0])
        found = infer(denoiser, posterior, **rest)
        found.forward = found.forward * len(options.prompt)
        return found

    return run_method


def load_data(options: argparse.Namespace) -> Animals | Pictures:
    """The pictures of --images, or those of --dataset_root with their labels."""
    if options.images:
        return Pictures(options.images, max_images=options.num_images)
    return Animals(
        options.dataset_root,
        options.classes,
        options.num_objects,
        max_images=options.num_images,
        skip_bad_images=options.skip_bad_images,
    )


def main() -> None:
    options = parse_options()
    check_options(options)
    dataset = load_data(options)  # before the model: mistakes in the data show at once
    checkpoint = choose_checkpoint(options)
    denoiser = load_model(options, checkpoint)
    set_resolution(options, denoiser, [dataset])
    options.batch_size = options.batch_size or denoiser.rows_at_once
    if options.dry_run:
        return describe_evaluation(options, denoiser, {"all": dataset})
    if options.compile:
        compile_where_right(denoiser, gradients=False)
    for method in options.method:
        output_dir = Path(options.output_dir) / options.tracker_project_name / f"eval-{method}"
        summary = evaluate(
            denoiser,
            {"all": dataset},
            choose_method(options, denoiser, method),
            output_dir,
            task="animals",
            method=method,
            **evaluation_settings(options, checkpoint, DETERMINING),
        )
        if summary:
            finish(summary, output_dir, figures=not options.no_figures)


if __name__ == "__main__":
    run(main, DataError)
