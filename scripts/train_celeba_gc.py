"""Train the generative classifier: one network conditioned on all attributes together, nothing composed.

Example:
    accelerate launch scripts/train_celeba_gc.py --dataset_root celeba
"""

from igm.cli.launch import run
from igm.data import DataError
from igm.facts import Facts
from igm.training.start import start_training
from train_celeba import load_data, parse_options


def main() -> None:
    options = parse_options(tracker_project_name="celeba-gc")
    dataset, validation = load_data(options, joint=True)
    facts = Facts(task="attributes", learner="joint_label", **dataset.facts())
    start_training(options, dataset, validation, facts=facts, cond_size=2 * len(dataset.attributes))


if __name__ == "__main__":
    run(main, DataError)
