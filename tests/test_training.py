"""The training loop: resuming, accumulation and processes change nothing; what goes wrong keeps the last checkpoint."""

import errno
import functools
import itertools
import json
import math
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from igm.composition import pack
from igm.data.clevr import Clevr
from igm.models import ModelError
from igm.models.checkpoint import load_network
from igm.models.codec import load_codec
from igm.models.denoiser import Denoiser
from igm.objective import Noise, composed_error, draw_noise
from igm.settings import SettingError
from igm.training.batches import DataOrder, Share, StepNoise, TrainingBatches, step_generator
from igm.training.checkpoints import find_checkpoint, list_checkpoints
from igm.training.compositional import CompositionalLearner
from igm.training.export import OF_THE_RUN, tidy_configs
from igm.training.loop import TrainingError, learning_rate, make_loader, train
from igm.training.settings import TrainSettings

SETTINGS = {
    "max_train_steps": 4,
    "train_batch_size": 2,
    "seed": 0,
    "learning_rate": 1e-3,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 2,
    "use_ema": True,
    "logging_steps": 1,
    "validation_steps": 10**9,
}


class Latents(torch.utils.data.Dataset):
    """`size` images as random posteriors, with 1 to 3 positions each."""

    def __init__(self, size=8):
        generator = torch.Generator().manual_seed(0)
        self.mean, self.std = torch.randn(2, size, 4, 8, 8, generator=generator)
        self.conds = torch.rand(size, 3, 2, generator=generator)
        self.seen = []

    def __len__(self):
        return len(self.mean)

    def __getitem__(self, i):
        self.seen.append(i)
        mask = (torch.arange(3) <= i % 3).float()
        std = self.std[i].abs()
        return {"posterior_mean": self.mean[i], "posterior_std": std, "conds": self.conds[i], "mask": mask}


def run(make_denoiser, folder, *, kind="unet", dataset=None, validate=None, same_run=None, **changes):
    """Train a tiny network in this process; return it."""
    settings = TrainSettings(**{**SETTINGS, **changes})
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=settings.accumulation)
    denoiser = make_denoiser(kind)
    denoiser.network.requires_grad_(True)
    learner, options = CompositionalLearner(denoiser, settings.snr_gamma), {"same_run": same_run, "validate": validate}
    assert train(accelerator, learner, dataset or Latents(), folder, settings, **options) == settings.max_train_steps
    return denoiser


def make_batches(dataset, share, seed, **noise):
    """The batches of a compositional learner on latents (4, 8, 8)."""
    static = noise.pop("static_shapes", False)
    collate = functools.partial(CompositionalLearner.collate, static_shapes=static)
    return TrainingBatches(dataset, collate, StepNoise((4, 8, 8), 1000, **noise), share, seed)


def training_loss(denoiser, batch, snr_gamma=None):
    """The loss of a compositional learner."""
    return CompositionalLearner(denoiser, snr_gamma).loss(batch)


def contents(checkpoint):
    """Every number of a checkpoint that matters for going on: weights, average, optimizer."""
    optimizer = torch.load(checkpoint / "optimizer.bin", weights_only=True)
    values = {"groups": torch.tensor([[g["lr"], g["weight_decay"]] for g in optimizer["param_groups"]])}
    for name in ("unet2dconditionmodel", "unet2dconditionmodel_ema"):
        if (checkpoint / name).is_dir():
            weights = load_file(checkpoint / name / "diffusion_pytorch_model.safetensors")
            values |= {f"{name}/{key}": value for key, value in weights.items()}
    for number, state in optimizer["state"].items():
        values |= {f"optimizer/{number}/{key}": value for key, value in state.items()}
    return values


def assert_equal(first, second):
    first, second = contents(first), contents(second)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def names(folder):
    return sorted(p.name for p in folder.iterdir() if p.name != "igm-cache")


# Resuming


@pytest.mark.parametrize(("kind", "accumulation"), [("unet", 1), ("unet", 2), ("position_unet", 2)])
def test_resumed_run_equals_a_straight_one(make_denoiser, tmp_path, kind, accumulation):
    options = {"kind": kind, "gradient_accumulation_steps": accumulation}
    run(make_denoiser, tmp_path / "straight", **options)

    class Killed(Exception):
        pass

    def kill(step):
        raise Killed

    with pytest.raises(Killed):
        run(make_denoiser, tmp_path / "killed", checkpointing_steps=2, validation_steps=2, validate=kill, **options)
    assert names(tmp_path / "killed") == ["checkpoint-2"]
    torch.manual_seed(99)  # what else was drawn in between must not matter
    resumed = Latents()
    run(make_denoiser, tmp_path / "killed", resume_from_checkpoint="latest", dataset=resumed, **options)
    assert_equal(tmp_path / "killed" / "checkpoint-4", tmp_path / "straight" / "checkpoint-4")
    assert len(resumed.seen) == 2 + 2 * 2 * accumulation  # two for its shape and kind; it goes on in the data
    middle, end = (contents(tmp_path / "killed" / f"checkpoint-{step}") for step in (2, 4))
    for part in ("unet2dconditionmodel/", "unet2dconditionmodel_ema/", "optimizer/"):
        assert any(not torch.equal(middle[name], end[name]) for name in middle if name.startswith(part))


def test_steps_of_a_checkpoint_path_are_found(make_denoiser, tmp_path):
    run(make_denoiser, tmp_path, checkpointing_steps=2)
    assert find_checkpoint(tmp_path, "latest") == tmp_path / "checkpoint-4"
    assert find_checkpoint(tmp_path, "checkpoint-2") == tmp_path / "checkpoint-2"
    assert find_checkpoint(tmp_path / "elsewhere", str(tmp_path / "checkpoint-2")) == tmp_path / "checkpoint-2"
    assert find_checkpoint(tmp_path / "elsewhere", "latest") is None
    with pytest.raises(ModelError, match="--resume_from_checkpoint checkpoint-3"):
        find_checkpoint(tmp_path, "checkpoint-3")


def test_unfinished_folders_are_not_resumed(make_denoiser, tmp_path):
    run(make_denoiser, tmp_path, checkpointing_steps=2)
    (tmp_path / ".checkpoint-9.partial").mkdir()  # killed while writing
    (tmp_path / "checkpoint-10").mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    assert find_checkpoint(tmp_path, "latest") == tmp_path / "checkpoint-4"


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"train_batch_size": 4}, {"dataset": Latents(10)}, {"same_run": {"task": "other"}}]
)
def test_checkpoint_of_another_run(make_denoiser, tmp_path, change):
    run(make_denoiser, tmp_path, max_train_steps=1, same_run={"task": "clevr"})
    with pytest.raises(ModelError, match="checkpoint-1 was trained with") as caught:
        run(make_denoiser, tmp_path, **{"same_run": {"task": "clevr"}, **change}, resume_from_checkpoint="latest")
    assert "\n" not in str(caught.value)


def test_finished_run_is_left_alone(make_denoiser, tmp_path):
    run(make_denoiser, tmp_path, max_train_steps=2)
    before = contents(tmp_path / "checkpoint-2")
    run(make_denoiser, tmp_path, max_train_steps=2, resume_from_checkpoint="latest")
    assert names(tmp_path) == ["checkpoint-2"]
    after = contents(tmp_path / "checkpoint-2")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_options_are_compared_as_they_are_written(make_denoiser, tmp_path):
    run(make_denoiser, tmp_path, max_train_steps=1, same_run={"unet_config": {"windows": (0.1, 0.2)}})
    run(make_denoiser, tmp_path, resume_from_checkpoint="latest", same_run={"unet_config": {"windows": [0.1, 0.2]}})


# Batches, accumulation


def order_of(size, batch, processes, start=0, stop=12, seed=3):
    """Micro-steps x processes x batch: what each process reads."""
    orders = [DataOrder(size, Share(batch, rank, processes), seed) for rank in range(processes)]
    return np.array([[order.rows(step) for order in orders] for step in range(start, stop)])


def test_every_epoch_is_a_new_permutation():
    order = order_of(12, 4, 1).reshape(4, 12)  # 4 epochs of 3 batches
    assert all(sorted(epoch) == list(range(12)) for epoch in order.tolist())
    assert len({tuple(epoch) for epoch in order.tolist()} | {tuple(range(12))}) == 5
    assert not np.array_equal(order, order_of(12, 4, 1, seed=4).reshape(4, 12))


def test_last_incomplete_batch_is_dropped():
    order = order_of(11, 4, 1, stop=4)
    assert all(len(set(order[i : i + 2].flatten().tolist())) == 8 for i in (0, 2))


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_out_the_global_batch(processes):
    parts = order_of(36, 2, processes)
    for micro_step in parts:
        assert len(np.unique(micro_step)) == 2 * processes  # disjoint
    assert np.array_equal(parts.reshape(12, -1), order_of(36, 2 * processes, 1).reshape(12, -1))


def test_batches_go_on_where_they_stopped():
    assert np.array_equal(order_of(10, 3, 1, start=5), order_of(10, 3, 1)[5:])
    batches = make_batches(Latents(10), Share(3), seed=3)
    resumed = list(batches.loader(5, 12))
    assert len(resumed) == 7 and all(torch.equal(resumed[0][name], value) for name, value in batches[5].items())


def test_batch_larger_than_the_dataset():
    with pytest.raises(ValueError, match="lower it"):
        DataOrder(5, Share(3, 0, 2), seed=0)


@pytest.mark.parametrize("options", [{}, {"offset_noise": True, "snr_gamma": 5.0, "t_logit_normal": (-0.5, 0.8)}])
def test_accumulation_equals_a_larger_batch(make_denoiser, tmp_path, options):
    options = {**options, "adam_epsilon": 1e-3}  # differences of 1e-8 in tiny gradients are not blown up
    for name, batch, accumulation in (("small", 2, 2), ("large", 4, 1)):
        run(make_denoiser, tmp_path / name, train_batch_size=batch, gradient_accumulation_steps=accumulation, **options)
    small, large = (contents(tmp_path / name / "checkpoint-4") for name in ("small", "large"))
    for name in small:
        torch.testing.assert_close(small[name], large[name], rtol=1e-3, atol=1e-6, msg=name)


# The loss


def test_loss_is_the_denoising_error_of_the_mean(make_denoiser):
    denoiser, dataset = make_denoiser("unet"), Latents()
    batches = make_batches(dataset, Share(3), seed=7)
    items = torch.utils.data.default_collate([dataset[i] for i in batches.order.rows(11)])
    generator = step_generator(7, 11)
    noise = draw_noise(3, (4, 8, 8), (0, 1000), generator)
    x_0 = items["posterior_mean"] + items["posterior_std"] * torch.randn(3, 4, 8, 8, generator=generator)
    expected = composed_error(denoiser, x_0, Noise(noise.t, noise.eps), *pack(items["conds"], items["mask"])).mean()
    torch.testing.assert_close(training_loss(denoiser, batches[11]), expected)


def test_training_lowers_the_loss(make_denoiser, tmp_path):
    losses = []
    dataset = Latents()
    for steps in (1, 50):
        denoiser = run(
            make_denoiser, tmp_path / str(steps), kind="position_unet", dataset=dataset, max_train_steps=steps,
            train_batch_size=8, learning_rate=3e-3, use_ema=False, logging_steps=50,
        )  # fmt: skip
        batches = make_batches(dataset, Share(8), seed=1)
        with torch.no_grad():
            losses.append(float(sum(training_loss(denoiser, batches[i]) for i in range(4))) / 4)
    assert losses[1] < 0.8 * losses[0]


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_learning_rate_values(schedule):
    settings = TrainSettings(
        max_train_steps=8, train_batch_size=1, learning_rate=1.0, lr_scheduler=schedule, lr_warmup_steps=4
    )
    values = [learning_rate(settings, step) for step in range(8)]
    rest = [1.0] * 4 if schedule == "constant" else [0.5 * (1 + math.cos(math.pi * i / 4)) for i in range(4)]
    assert values == pytest.approx([0.25, 0.5, 0.75, 1.0, *rest])


def test_learning_rate_reaches_the_optimizer(make_denoiser, tmp_path):
    run(make_denoiser, tmp_path, kind="position_unet", checkpointing_steps=1)
    for step in (1, 2, 3, 4):
        expected = learning_rate(TrainSettings(**SETTINGS), step - 1)
        groups = torch.load(tmp_path / f"checkpoint-{step}" / "optimizer.bin", weights_only=True)["param_groups"]
        assert [g["lr"] for g in groups] == [pytest.approx(expected)]


# Checkpoints


def test_checkpoint_holds_what_other_code_reads(make_denoiser, tmp_path, tiny_vae_dir):
    denoiser = run(make_denoiser, tmp_path, max_train_steps=1)
    expected = {"unet2dconditionmodel", "unet2dconditionmodel_ema", "scheduler", "igm.json", "training.json"}
    assert expected <= set(names(tmp_path / "checkpoint-1"))
    loaded = Denoiser.from_pretrained(tmp_path / "checkpoint-1", codec=tiny_vae_dir, ema=False)
    for name, value in denoiser.network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], value)


def test_average_of_the_weights(make_denoiser, tmp_path):
    """With a decay of 0 the average is the weights; with another it lags behind them."""
    for decay, equal in ((0.0, True), (0.9999, False)):
        run(make_denoiser, tmp_path / str(decay), ema_decay=decay)
        values = contents(tmp_path / str(decay) / "checkpoint-4")
        pairs = [(v, values[n.replace("model/", "model_ema/")]) for n, v in values.items() if "conditionmodel/" in n]
        assert pairs and all(torch.allclose(*pair, rtol=0, atol=1e-7) for pair in pairs) == equal


def test_rotation_keeps_the_newest(make_denoiser, tmp_path):
    for limit, kept in ((2, ["checkpoint-10", "checkpoint-11"]), (None, 11)):
        folder = tmp_path / str(limit)
        run(
            make_denoiser, folder, kind="position_unet", max_train_steps=11, checkpointing_steps=1,
            checkpoints_total_limit=limit, use_ema=False,
        )  # fmt: skip
        found = names(folder)
        assert found == kept if limit else len(found) == kept
    assert [p.name for p in list_checkpoints(folder)] == [f"checkpoint-{i}" for i in range(1, 12)]  # by number


def fail_second_save(monkeypatch, error):
    """Let the second save write a part and then raise."""
    original, calls = Accelerator.save_state, itertools.count()

    def save_state(self, output_dir, **options):
        result = original(self, output_dir, **options)
        if next(calls) == 1:
            (Path(output_dir) / "optimizer.bin").write_bytes(b"half")
            raise error
        return result

    monkeypatch.setattr(Accelerator, "save_state", save_state)


def test_full_disk_keeps_the_old_checkpoint(make_denoiser, tmp_path, monkeypatch):
    run(make_denoiser, tmp_path / "good", max_train_steps=2)
    fail_second_save(monkeypatch, OSError(errno.ENOSPC, "No space left on device", "optimizer.bin"))
    with pytest.raises(OSError, match="No space left"):
        run(make_denoiser, tmp_path / "run", checkpointing_steps=2, checkpoints_total_limit=1, lr_scheduler="constant")
    assert names(tmp_path / "run") == ["checkpoint-2"]
    assert find_checkpoint(tmp_path / "run", "latest") == tmp_path / "run" / "checkpoint-2"
    monkeypatch.undo()
    run(make_denoiser, tmp_path / "run", resume_from_checkpoint="latest", lr_scheduler="constant")
    run(make_denoiser, tmp_path / "straight", lr_scheduler="constant")
    assert_equal(tmp_path / "run" / "checkpoint-4", tmp_path / "straight" / "checkpoint-4")


@pytest.mark.parametrize("limit", [3_000, 60_000])
def test_writes_that_really_fail(make_denoiser, tmp_path, limit):
    """Files beyond a size cannot be written: the libraries' own errors arrive as an OSError that names the file."""
    run(make_denoiser, tmp_path, max_train_steps=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OSError) as caught:
            run(make_denoiser, tmp_path, max_train_steps=2, checkpoints_total_limit=1, resume_from_checkpoint="latest")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno and "checkpoint-2" in str(caught.value.filename)
    assert names(tmp_path) == ["checkpoint-1"] and len(contents(tmp_path / "checkpoint-1")) > 3


def test_an_earlier_runs_checkpoint_of_the_same_step_is_replaced(make_denoiser, tmp_path):
    run(make_denoiser, tmp_path, max_train_steps=1)
    first = contents(tmp_path / "checkpoint-1")
    run(make_denoiser, tmp_path, max_train_steps=1, seed=5)
    second = contents(tmp_path / "checkpoint-1")
    assert any(not torch.equal(first[name], second[name]) for name in first)


# A loss, or a weight, that is not finite


def test_weights_that_are_not_finite_are_not_saved(make_denoiser, tmp_path):
    """The loss of the last step is still finite: only the step after it would show that the weights are lost."""
    with pytest.raises(TrainingError, match="not finite after step 1; .* --adam_weight_decay"):
        run(make_denoiser, tmp_path, max_train_steps=1, adam_weight_decay=1e30, learning_rate=1e30)
    assert names(tmp_path) == []


@pytest.mark.parametrize(("logging_steps", "accumulation"), [(1, 1), (20, 1), (20, 2)])
def test_loss_that_is_not_finite(make_denoiser, tmp_path, logging_steps, accumulation):
    dataset = Latents(16)
    rows = DataOrder(16, Share(2), seed=0).rows(2 * accumulation)
    dataset.mean[rows[1]] = float("nan")  # read in step 3
    with pytest.raises(TrainingError, match="step 3") as caught:
        run(
            make_denoiser, tmp_path, dataset=dataset, checkpointing_steps=2, checkpoints_total_limit=1,
            logging_steps=logging_steps, gradient_accumulation_steps=accumulation,
        )  # fmt: skip
    assert "nan" in str(caught.value) and "\n" not in str(caught.value)
    assert names(tmp_path) == ["checkpoint-2"]
    values = contents(tmp_path / "checkpoint-2")
    assert all(value.isfinite().all() for value in values.values())


# The command line's options


def test_image_larger_than_the_config_says(make_denoiser, clevr_root, tiny_vae_dir):
    """The published network takes any side: noise has the shape of the latents, not of the config."""
    codec = load_codec(tiny_vae_dir)
    dataset = Clevr(clevr_root, "train", resolution=32)
    settings = TrainSettings(**SETTINGS)
    learner = CompositionalLearner(make_denoiser("unet", codec=codec))
    loader = make_loader(Accelerator(cpu=True), learner, dataset, settings, Share(2), 0)
    batch = next(iter(loader))
    assert batch["eps"].shape == (2, 4, 16, 16)
    assert training_loss(make_denoiser("unet", codec=codec), batch).isfinite()


def test_cleanup_of_a_partial_folder(make_denoiser, tmp_path):
    partial = tmp_path / ".checkpoint-1.partial"
    partial.mkdir(parents=True)
    (partial / "rubbish").write_text("of a killed run")
    run(make_denoiser, tmp_path, max_train_steps=1)
    assert names(tmp_path) == ["checkpoint-1"] and not (tmp_path / "checkpoint-1" / "rubbish").exists()


def test_tidy_configs_keep_the_network(make_denoiser, tmp_path):
    run(make_denoiser, tmp_path, max_train_steps=1, use_ema=True)
    folder = tmp_path / "checkpoint-1" / "unet2dconditionmodel_ema"
    before, weights = json.loads((folder / "config.json").read_text()), load_network(folder.parent).state_dict()
    assert "optimization_step" in before
    tidy_configs(tmp_path / "checkpoint-1")
    after = json.loads((folder / "config.json").read_text())
    assert set(before) - set(after) <= set(OF_THE_RUN) and "optimization_step" not in after
    assert all(after[name] == before[name] for name in after)
    again = load_network(folder.parent).state_dict()
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_a_step_of_many_passes_over_the_data_is_refused():
    settings = TrainSettings(train_batch_size=2, gradient_accumulation_steps=300)
    assert settings.resolved(6, 1).max_train_steps == 1  # a hundred passes
    with pytest.raises(SettingError, match="300.*600 images of only 5"):
        settings.resolved(5, 1)
