"""The speedrun of docs/speedrun.md: clevr-mini from nothing, its checkpoints evaluated, the curve drawn.

python benchmarks/speedrun.py --dataset_root DIR                              2,000 steps; minutes on one core
python benchmarks/speedrun.py --dataset_root DIR --max_train_steps 100 --every 50 --num_images 5
"""

import sys
import time
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from igm import UserError
from igm.cli.launch import run
from igm.cli.options import Parser
from igm.evaluation.records import SUMMARY_NAME, read_json
from igm.evaluation.table import align
from igm.figures.style import COLOURS, DPI, STYLE, open_frame, save_figure
from igm.reproduction.clevr import IGM
from igm.reproduction.run import call
from igm.settings import path, positive

NAME, RADIUS = "speedrun", "0.05"
Curve = list[tuple[float, float, float, float]]  # minutes, share found in %, and its 95 % interval


def train(options) -> float:
    """Train, keeping a checkpoint every so many steps; the seconds that it took."""
    every, steps = str(options.every), str(options.max_train_steps)
    started = time.perf_counter()
    call(
        [
            *(sys.executable, "train_clevr.py", "--config", "configs/clevr-mini/train.yaml"),
            *("--dataset_root", options.dataset_root, "--max_train_steps", steps, "--validation_steps", every),
            *("--checkpointing_steps", every, "--checkpoints_total_limit", steps),
            *("--output_dir", options.output_dir, "--tracker_project_name", NAME),
        ]
    )
    return time.perf_counter() - started


def found(options, step: int) -> dict[str, tuple[float, float, float]]:
    """The share of objects found with the weights of a step, and its interval, in %, by group; number known."""
    output = Path(options.output_dir) / NAME / f"found-{step}"
    call(
        [
            *(sys.executable, "eval_clevr.py", "--dataset_root", options.dataset_root, "--no_figures"),
            *("--checkpoint", str(Path(options.output_dir) / NAME / f"checkpoint-{step}")),
            *("--num_images", str(options.num_images), "--output_dir", str(output)),
        ]
    )
    (summary,) = output.rglob(SUMMARY_NAME)
    groups = read_json(summary)["groups"]
    share = {name: own["metrics"]["perception_rate"][RADIUS] for name, own in groups.items()}
    return {name: (100 * share[name], *(100 * end for end in groups[name]["ci95"]["perception_rate"][RADIUS]))
            for name in groups}  # fmt: skip


@matplotlib.rc_context(STYLE)
def draw(curves: dict[str, Curve], file: Path) -> Figure:
    """Draw the share found against minutes of training, a curve a group, and the paper's shares as dashed lines."""
    figure = Figure(figsize=(3.6, 2.5), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for colour, (group, curve) in zip(COLOURS[1::-1], curves.items(), strict=False):
        minutes, share, low, high = zip(*curve, strict=True)
        axes.fill_between(minutes, low, high, color=colour, alpha=0.16, linewidth=0)
        axes.plot(minutes, share, color=colour, marker="o", markersize=3, label=f"{group} objects")
        if group in IGM:
            axes.axhline(IGM[group].score, color=colour, linewidth=0.8, linestyle="--")
    axes.set(xlabel="minutes of training", ylabel="objects found within 0.05, %", ylim=(0, 102))
    axes.set_xlim(left=0)
    axes.legend(loc="lower right", frameon=False, title="dashed: the paper", title_fontsize=7)
    open_frame(axes)
    save_figure(figure, file)
    return figure


def main() -> None:
    parser = Parser(__doc__ or "")
    parser.add_argument("--dataset_root", type=path, required=True, help="folder in CLEVR's layout")
    parser.add_argument("--max_train_steps", type=positive, default=2000, help="steps of the training")
    parser.add_argument("--every", type=positive, default=250, help="steps from one evaluation to the next")
    parser.add_argument("--num_images", type=positive, default=50, help="of each group, evaluated")
    parser.add_argument("--output_dir", type=path, default="outputs", help="the run goes to its folder speedrun")
    options = parser.parse_args()
    if (Path(options.output_dir) / NAME).exists():  # it would be resumed, and the clock would lie
        raise UserError(
            f"--output_dir {options.output_dir} has a speedrun already; delete that, or name another folder"
        )
    if options.every > options.max_train_steps:
        raise UserError(f"--every {options.every} is more than --max_train_steps {options.max_train_steps}; give fewer")
    seconds = train(options)
    steps = sorted({*range(options.every, options.max_train_steps, options.every), options.max_train_steps})
    shares = {step: found(options, step) for step in steps}
    minutes = {step: seconds / 60 * step / options.max_train_steps for step in steps}
    groups = list(shares[steps[-1]])
    curves = {group: [(minutes[step], *shares[step][group]) for step in steps] for group in groups}
    figure = Path(options.output_dir) / NAME / "speedrun.png"
    draw(curves, figure)
    cells = [("minutes", [f"{minutes[step]:.1f}" for step in steps])]
    cells += [(group, [f"{shares[step][group][0]:.1f} %" for step in steps]) for group in groups]
    print(f"\n{align([('step', [f'{step:,}' for step in steps]), *cells])}\n\nFigure: {figure}")


if __name__ == "__main__":
    run(main)
