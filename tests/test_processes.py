"""Several processes train as one, and go on from each other's checkpoints; kill -9 at any moment costs nothing."""

import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from conftest import ROOT, script_env
from test_training import Latents, assert_equal, contents, names, run
from tqdm.auto import tqdm

CONTEXT = multiprocessing.get_context("fork")  # everything is imported already: a process starts at once


def fork_processes(number, function):
    """Run function(rank) in `number` processes of one group, as a launcher starts them; raise if one fails."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]

    def start(rank):
        group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number}
        if number > 1:
            os.environ.update({k: str(v) for k, v in group.items()} | {"MASTER_ADDR": "127.0.0.1"})
            os.environ.update({"MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"})
        AcceleratorState._reset_state(reset_partial_state=True)
        PartialState(cpu=True)
        function(rank)
        if number > 1:
            torch.distributed.destroy_process_group()

    processes = [CONTEXT.Process(target=start, args=(rank,)) for rank in range(number)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * number


def train_with(processes, make_denoiser, folder, **changes):
    options = {"kind": "unet", "train_batch_size": 2, "dataset": Latents(16), "lr_scheduler": "constant", **changes}
    fork_processes(processes, lambda rank: run(make_denoiser, folder, **options))


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_resuming_with_as_many_processes_is_exact(make_denoiser, tmp_path, processes):
    train_with(processes, make_denoiser, tmp_path / "straight", checkpointing_steps=2)
    (tmp_path / "resumed").mkdir()
    shutil.copytree(tmp_path / "straight" / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    train_with(processes, make_denoiser, tmp_path / "resumed", resume_from_checkpoint="latest")
    assert_equal(tmp_path / "resumed" / "checkpoint-4", tmp_path / "straight" / "checkpoint-4")
    assert len(list((tmp_path / "resumed" / "checkpoint-4").glob("random_states_*"))) == processes


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_resuming_with_another_number_of_processes(make_denoiser, tmp_path, capfd, before, after):
    train_with(before, make_denoiser, tmp_path, max_train_steps=2)
    middle = contents(tmp_path / "checkpoint-2")
    capfd.readouterr()
    train_with(after, make_denoiser, tmp_path, resume_from_checkpoint="latest", checkpointing_steps=1)
    err = capfd.readouterr().err
    assert err.count("warning:") == 1 and "data order" in err and f"{2 * before} images" in err
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-3", "checkpoint-4"]
    end = contents(tmp_path / "checkpoint-4")
    assert end.keys() == middle.keys() and all(value.isfinite().all() for value in end.values())
    assert [int(end[name]) for name in end if name.endswith("/step")] == [4] * sum(n.endswith("/step") for n in end)


def test_as_many_images_per_step_need_no_warning(make_denoiser, tmp_path, capfd):
    """2 processes of batch 2, then 1 of batch 4: the same images and noise, so the weights of a straight run."""
    options = {"adam_epsilon": 1e-3}
    train_with(2, make_denoiser, tmp_path / "resumed", max_train_steps=2, **options)
    train_with(1, make_denoiser, tmp_path / "resumed", resume_from_checkpoint="latest", train_batch_size=4, **options)
    assert "warning" not in capfd.readouterr().err
    train_with(1, make_denoiser, tmp_path / "straight", train_batch_size=4, **options)
    resumed, straight = (contents(tmp_path / name / "checkpoint-4") for name in ("resumed", "straight"))
    for name in straight:
        torch.testing.assert_close(resumed[name], straight[name], rtol=1e-3, atol=1e-6, msg=name)


# kill -9


def steps_in(folder):
    return {path.name for path in folder.glob("checkpoint-*")} if folder.is_dir() else set()


def train_until_killed(start, folder, rng, spread):
    """Start a training, kill it at a random moment after its first new checkpoint (or when it takes long)."""
    process, before, begun = start(), steps_in(folder), time.monotonic()
    while process.poll() is None and steps_in(folder) == before and time.monotonic() < begun + 60:
        time.sleep(0.005)
    deadline = time.monotonic() + rng.uniform(0, spread)
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    return process.wait()


class Forked:
    """A forked process with the interface of subprocess.Popen that is used here.

    It has a lock of its own for the progress bar: tqdm's is shared by forks, and one that is killed while it holds it would
    leave all others waiting for ever.
    """

    def __init__(self, function):
        def start():
            tqdm.set_lock(threading.RLock())
            function()

        self.process = CONTEXT.Process(target=start)
        self.process.start()

    def poll(self):
        return self.process.exitcode

    def send_signal(self, number):
        os.kill(self.process.pid, number)

    def wait(self):
        self.process.join()
        return self.process.exitcode


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments(make_denoiser, tmp_path, kills):
    """Mostly killed while a checkpoint is written or an old one deleted; then the weights of an undisturbed run."""
    options = {
        "kind": "position_unet", "dataset": Latents(16), "max_train_steps": 4 * kills, "checkpointing_steps": 1,
        "logging_steps": 100,
    }  # fmt: skip
    last = f"checkpoint-{4 * kills}"
    run(make_denoiser, tmp_path / "straight", **options)
    times = sorted(path.stat().st_mtime for path in (tmp_path / "straight").glob("checkpoint-*"))
    step_time = (times[-1] - times[0]) / (len(times) - 1)
    folder, rng = tmp_path / "killed", random.Random(0)
    options["checkpoints_total_limit"] = 1

    def start():
        return Forked(lambda: run(make_denoiser, folder, resume_from_checkpoint="latest", **options))

    codes = [train_until_killed(start, folder, rng, spread=2 * step_time) for _ in range(kills)]
    assert codes.count(-signal.SIGKILL) >= 2 * kills / 3
    assert steps_in(folder)  # something complete is always there
    run(make_denoiser, folder, resume_from_checkpoint="latest", **options)
    assert_equal(folder / last, tmp_path / "straight" / last)
    assert names(folder) == [last]  # no rest of the killed ones


@pytest.mark.slow
def test_real_command_killed_twenty_times(clevr_root, tiny_vae_dir, tiny_configs, tmp_path):
    """kill -9 of train_clevr.py, 20 times, each after it has saved at least once more."""
    common = {
        "dataset_root": clevr_root, "unet_config": tiny_configs["position_unet"], "report_to": "none", "resolution": 16,
        "scheduler_config": tiny_configs["scheduler"], "pretrained_model_name": tiny_vae_dir, "train_batch_size": 2,
        "num_validation_images": 0, "checkpointing_steps": 1, "checkpoints_total_limit": 2, "max_train_steps": 400,
    }  # fmt: skip

    def start(name, *more):
        options = [str(x) for pair in common.items() for x in (f"--{pair[0]}", pair[1])]
        command = [sys.executable, "train_clevr.py", *options, "--use_ema", "--output_dir", str(tmp_path / name), *more]
        return subprocess.Popen(command, cwd=ROOT, env=script_env(tmp_path), stderr=subprocess.DEVNULL)

    straight = start("straight")
    folder, rng = tmp_path / "killed" / "clevr", random.Random(1)
    again = ["--resume_from_checkpoint", "latest"]
    codes = [train_until_killed(lambda: start("killed", *again), folder, rng, spread=1.0) for _ in range(20)]
    assert codes.count(-signal.SIGKILL) == 20
    assert start("killed", *again).wait() == 0 and straight.wait() == 0
    assert_equal(folder / "checkpoint-400", tmp_path / "straight" / "clevr" / "checkpoint-400")
    assert not list(folder.glob(".checkpoint-*"))
