"""Train a ResNet-50 to classify CelebA's attributes: the discriminative baseline.

Example:
    accelerate launch scripts/train_celeba_resnet.py --dataset_root celeba --max_train_steps 20000 --learning_rate 1e-3
"""

import argparse
import dataclasses
from pathlib import Path

import torch
from accelerate import Accelerator

from igm.baselines.resnet50 import Classifier, attribute_loss
from igm.cli.launch import run
from igm.data import DataError
from igm.facts import Facts
from igm.models.denoiser import load_network
from igm.models.unet import build_network, read_config
from igm.resources import CONFIGS
from igm.training.start import copy_weights, start_training
from train_celeba import load_data, parse_options


def make_classifier(options: argparse.Namespace, accelerator: Accelerator, facts: Facts) -> Classifier:
    """A classifier with fresh weights."""
    network = build_network(read_config(options.unet_config, "--unet_config"))
    network.register_to_config(sample_size=options.resolution)
    if options.initialize_from:
        copy_weights(load_network(Path(options.initialize_from), ema=False), network, options.initialize_from)
    return Classifier(network, dataclasses.replace(facts, resolution=options.resolution))


def loss(model: Classifier, batch: dict[str, torch.Tensor], snr_gamma: float | None) -> torch.Tensor:
    """Cross-entropy of a batch; every face has all K concepts, so that its pairs stand together."""
    return attribute_loss(model.network(batch["pixel_values"]), batch["conds"].unflatten(0, (len(batch["t"]), -1)))


def main() -> None:
    config = str(CONFIGS / "celeba-resnet50" / "config.json")
    options = parse_options(unet_config=config, tracker_project_name="celeba-resnet50", learning_rate=1e-3)
    options.no_latent_cache, options.num_validation_images = True, 0  # it reads pixels, and generates nothing
    options.gradient_checkpointing = False  # transformers' ResNet has none
    dataset, _ = load_data(options)
    facts = Facts(task="attributes", learner="resnet50", **dataset.facts())
    size = 2 * len(dataset.attributes)
    start_training(options, dataset, None, facts=facts, cond_size=size, build=make_classifier, loss=loss)


if __name__ == "__main__":
    run(main, DataError)
