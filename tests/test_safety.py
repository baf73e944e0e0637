"""Nothing is lost or mixed: checkpoints of others, two trainings in one folder, planted files, signals, lost workers."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import ROOT, script_env
from safetensors.torch import load_file, save_file
from test_scripts import check_refused
from test_training import Latents, assert_equal, names, run

from igm.files import locked
from igm.models import ModelError
from igm.training import checkpoints
from igm.training.checkpoints import find_checkpoint, find_latest
from igm.training.faults import TrainingError, faults_in_one_line

NETWORK = "unet2dconditionmodel/diffusion_pytorch_model.safetensors"


@pytest.fixture
def train_args(training_args, clevr_root):
    return training_args(clevr_root, "unet")


@pytest.fixture
def published(make_denoiser):
    """A function that puts a checkpoint of the published kind into a run's folder."""

    def write(folder, step):
        place = folder / f"checkpoint-{step}"
        make_denoiser("unet").network.save_pretrained(place / "unet2dconditionmodel")
        return place

    return write


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_published_checkpoint_is_named_and_kept(run_main, train_args, published, tmp_path):
    place = published(tmp_path / "out" / "clevr", 80000)
    before = files(tmp_path / "out")
    args = train_args(resume_from_checkpoint="latest", checkpoints_total_limit=1)
    code, _, err = run_main("train_clevr", *args)
    check_refused(code, err.splitlines()[-1], place, "--initialize_from", "--tracker_project_name")
    assert files(tmp_path / "out") == before
    code, _, err = run_main("train_clevr", *train_args(resume_from_checkpoint=place))
    check_refused(code, err.splitlines()[-1], place, "--initialize_from")
    code, _, err = run_main("train_clevr", *train_args(initialize_from=place, tracker_project_name="tuned"))
    assert code == 0 and (tmp_path / "out" / "tuned" / "checkpoint-2").is_dir(), err


def test_rotation_leaves_what_others_made(make_denoiser, published, tmp_path):
    """A published checkpoint, one of an earlier run, and an unfinished folder; this run goes on past all of them."""
    place = published(tmp_path, 3)
    options = {"kind": "unet", "use_ema": False, "checkpoints_total_limit": 1, "checkpointing_steps": 2}
    run(make_denoiser, tmp_path, **{**options, "max_train_steps": 2, "seed": 5})
    shutil.move(tmp_path / "checkpoint-2", tmp_path / "checkpoint-1")
    (tmp_path / "checkpoint-0").mkdir()
    before = files(place)
    run(make_denoiser, tmp_path, **{**options, "max_train_steps": 6})
    assert (
        names(tmp_path) == ["checkpoint-0", "checkpoint-1", "checkpoint-3", "checkpoint-6"] and files(place) == before
    )


def test_published_checkpoint_is_never_replaced(run_main, train_args, published, tmp_path):
    place = published(tmp_path / "out" / "clevr", 2)
    code, _, err = run_main("train_clevr", *train_args())
    check_refused(code, err.splitlines()[-1], place, "--tracker_project_name")
    assert not (place / "training.json").exists()


def test_own_checkpoints_go_on_beside_published_ones(make_denoiser, published, tmp_path, capsys):
    run(make_denoiser, tmp_path, max_train_steps=2, lr_scheduler="constant")
    published(tmp_path, 9)
    run(make_denoiser, tmp_path, resume_from_checkpoint="latest", lr_scheduler="constant")
    assert "checkpoint-9 has no training.json" in capsys.readouterr().err
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-4", "checkpoint-9"]


def spoil(checkpoint, kind):
    file = checkpoint / NETWORK
    if kind == "nan":
        tensors = load_file(file)
        next(iter(tensors.values()))[0] = float("nan")
        save_file(tensors, file, metadata={"format": "pt"})
    elif kind == "cut":
        file.write_bytes(file.read_bytes()[:1000])
    elif kind == "gone":
        file.unlink()


@pytest.mark.parametrize("kind", ["nan", "cut", "gone"])
def test_latest_is_the_newest_that_is_whole(make_denoiser, tmp_path, capsys, kind):
    run(make_denoiser, tmp_path, checkpointing_steps=2)
    spoil(tmp_path / "checkpoint-4", kind)
    assert find_latest(tmp_path) == tmp_path / "checkpoint-2"
    assert "checkpoint-4 is passed over" in capsys.readouterr().err
    with pytest.raises(ModelError, match="--resume_from_checkpoint checkpoint-4"):
        find_checkpoint(tmp_path, "checkpoint-4")
    spoil(tmp_path / "checkpoint-2", kind)
    with pytest.raises(ModelError, match="no older checkpoint"):
        find_latest(tmp_path)


class Payload:
    """What runs when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("name", ["optimizer.bin", "random_states_0.pkl", "custom_checkpoint_0.pkl", "scheduler.bin"])
@pytest.mark.parametrize("zipped", [True, False])
def test_no_payload_of_a_checkpoint_runs(make_denoiser, tmp_path, name, zipped):
    run(make_denoiser, tmp_path, max_train_steps=2)
    file, marker = tmp_path / "checkpoint-2" / name, tmp_path / "ran"
    if zipped:
        torch.save({"x": Payload(marker)}, file)
    else:
        file.write_bytes(pickle.dumps(Payload(marker), protocol=2))
    try:
        run(make_denoiser, tmp_path, resume_from_checkpoint="latest")
    except ModelError as error:
        assert "checkpoint-2 cannot be resumed" in str(error) and "\n" not in str(error)
    assert not marker.exists()


@pytest.mark.parametrize("folder", ["unet2dconditionmodel", "unet2dconditionmodel_ema"])
def test_weights_of_a_pickle_are_refused(make_denoiser, tmp_path, folder):
    run(make_denoiser, tmp_path, max_train_steps=2)
    file = tmp_path / "checkpoint-2" / folder / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    with pytest.raises(ModelError, match="never read|no weights"):
        run(make_denoiser, tmp_path, resume_from_checkpoint="latest")


def change_state(checkpoint, kind):
    file = checkpoint / "training.json"
    state = json.loads(file.read_text())
    state |= {"step as text": {"step": "four"}, "negative step": {"step": -3}, "text config": {"unet_config": "x"}}.get(
        kind, {}
    )
    optimizer = checkpoint / "optimizer.bin"
    if kind == "no step":
        del state["step"]
    elif kind == "empty":
        state = {}
    elif kind == "cut optimizer":
        optimizer.write_bytes(optimizer.read_bytes()[:3000])
    elif kind == "no optimizer":
        optimizer.unlink()
    elif kind == "list optimizer":
        torch.save([1, 2], optimizer)
    elif kind == "other shapes":
        values = torch.load(optimizer, weights_only=True)
        next(iter(values["state"].values()))["exp_avg"] = torch.zeros(3)
        torch.save(values, optimizer)
    elif kind == "infinite optimizer":
        values = torch.load(optimizer, weights_only=True)
        next(iter(values["state"].values()))["exp_avg"].fill_(float("inf"))
        torch.save(values, optimizer)
    file.write_text(json.dumps(state))


@pytest.mark.parametrize(
    "kind",
    [
        "step as text", "negative step", "text config", "no step", "empty", "cut optimizer", "no optimizer",
        "list optimizer", "other shapes", "infinite optimizer",
    ],
)  # fmt: skip
def test_damaged_state_is_one_line(make_denoiser, tmp_path, kind):
    same_run = {"unet_config": {"a": 1}}
    run(make_denoiser, tmp_path, max_train_steps=2, same_run=same_run)
    change_state(tmp_path / "checkpoint-2", kind)
    with pytest.raises(ModelError, match="checkpoint-2") as caught:
        run(make_denoiser, tmp_path, resume_from_checkpoint="latest", same_run=same_run)
    assert "\n" not in str(caught.value)


def test_average_begins_at_the_weights_where_there_was_none(make_denoiser, tmp_path, capsys):
    options = {"lr_scheduler": "constant", "learning_rate": 1e-12, "adam_weight_decay": 0.0}
    run(make_denoiser, tmp_path, max_train_steps=2, use_ema=False, **{**options, "learning_rate": 1e-2})
    run(make_denoiser, tmp_path, max_train_steps=3, resume_from_checkpoint="latest", **options)
    assert "has no running average" in capsys.readouterr().err
    weights, average = (
        load_file(tmp_path / "checkpoint-3" / f"unet2dconditionmodel{end}" / "diffusion_pytorch_model.safetensors")
        for end in ("", "_ema")
    )
    assert all(torch.allclose(weights[name], average[name], atol=1e-6) for name in weights)


@pytest.mark.parametrize("accumulation", [2, 4])
def test_resuming_with_other_micro_steps(make_denoiser, tmp_path, accumulation):
    """4 images a step as 1, 2 or 4 micro-steps: the steps of the checkpoint do not shift those to come."""
    options = {"adam_epsilon": 1e-3, "lr_scheduler": "constant", "max_train_steps": 3}
    run(make_denoiser, tmp_path / "straight", train_batch_size=4, **options)
    run(make_denoiser, tmp_path / "other", train_batch_size=4, **{**options, "max_train_steps": 1})
    parts = {"train_batch_size": 4 // accumulation, "gradient_accumulation_steps": accumulation}
    run(make_denoiser, tmp_path / "other", resume_from_checkpoint="latest", **parts, **options)
    straight, other = (load_file(tmp_path / name / "checkpoint-3" / NETWORK) for name in ("straight", "other"))
    for name in straight:
        torch.testing.assert_close(other[name], straight[name], rtol=1e-3, atol=1e-6, msg=name)


def test_other_schedule_or_codec_is_refused(run_main, train_args, tiny_configs, tmp_path):
    assert run_main("train_clevr", *train_args(max_train_steps=1))[0] == 0
    schedule = json.loads(tiny_configs["scheduler"].read_text())
    (tmp_path / "s.json").write_text(json.dumps({**schedule, "beta_end": 0.02}))
    args = train_args(resume_from_checkpoint="latest", scheduler_config=tmp_path / "s.json")
    code, _, err = run_main("train_clevr", *args)
    check_refused(code, err.splitlines()[-1], "schedule: beta_end", "0.02")


# Folders and names


def test_second_training_in_one_folder_is_told_at_once(run_main, train_args, no_model, tmp_path):
    with locked(tmp_path / "out" / "clevr"):
        code, _, err = run_main("train_clevr", *train_args())
    check_refused(code, err.splitlines()[-1], tmp_path / "out" / "clevr", str(os.getpid()), "--output_dir")


def test_planted_names_are_not_followed(make_denoiser, tmp_path):
    """What an earlier version's temporary names led to stays as it is, and nothing temporary is left."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_text("precious")
    folder = tmp_path / "run"
    folder.mkdir()
    for step in (1, 2, 3, 4):
        (folder / f".checkpoint-{step}.partial").symlink_to(victim)
        (folder / f".checkpoint-{step}.removed").symlink_to(victim)
    run(make_denoiser, folder, checkpointing_steps=1, checkpoints_total_limit=1)
    assert names(folder) == ["checkpoint-4"] and (victim / "precious").read_text() == "precious"
    assert names(victim) == ["precious"]


def test_link_in_place_of_an_old_checkpoint(make_denoiser, tmp_path):
    options = {"checkpointing_steps": 1, "lr_scheduler": "constant"}
    run(make_denoiser, tmp_path / "run", max_train_steps=1, **options)
    shutil.move(tmp_path / "run" / "checkpoint-1", tmp_path / "elsewhere")
    (tmp_path / "run" / "checkpoint-1").symlink_to(tmp_path / "elsewhere")
    before = files(tmp_path / "elsewhere")
    run(make_denoiser, tmp_path / "run", resume_from_checkpoint="latest", checkpoints_total_limit=1, **options)
    assert names(tmp_path / "run") == ["checkpoint-4"] and files(tmp_path / "elsewhere") == before


def test_file_in_place_of_a_checkpoint(run_main, train_args, tmp_path):
    (tmp_path / "out" / "clevr").mkdir(parents=True)
    (tmp_path / "out" / "clevr" / "checkpoint-2").write_text("mine")
    code, _, err = run_main("train_clevr", *train_args())
    check_refused(code, err.splitlines()[-1], "checkpoint-2", "--tracker_project_name")
    assert (tmp_path / "out" / "clevr" / "checkpoint-2").read_text() == "mine"


# Machines


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "--dataloader_num_workers"),
        (RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: Success (0)"), "/dev/shm"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "--train_batch_size"),
        (torch.OutOfMemoryError("CUDA out of memory"), "--train_batch_size"),
        (MemoryError(), "--train_batch_size"),
    ],
)
def test_what_a_machine_lacks_is_one_line(error, words):
    with pytest.raises(TrainingError, match="the last checkpoint is kept") as caught, faults_in_one_line():
        raise error
    assert words in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(RuntimeError, match="a shape"), faults_in_one_line():
        raise RuntimeError("a shape that cannot be")


class Dying(Latents):
    """Its loader process is killed after some batches."""

    def __getitem__(self, i):
        if torch.utils.data.get_worker_info() is not None and len(self.seen) >= 20:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(i)


def test_killed_loader_process(make_denoiser, tmp_path):
    with pytest.raises(TrainingError, match="--dataloader_num_workers"):
        run(
            make_denoiser,
            tmp_path,
            dataset=Dying(),
            dataloader_num_workers=1,
            checkpointing_steps=1,
            max_train_steps=20,
        )
    assert find_latest(tmp_path) is not None and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("at", ["replace_json", "write_through"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("DataLoader worker (pid 7) is killed by signal")])
def test_stopped_while_a_checkpoint_is_written(make_denoiser, tmp_path, monkeypatch, at, error):
    """A signal raises wherever the program is: nothing half-written stays, and the older checkpoint is whole."""
    write, calls = getattr(checkpoints, at), []

    def stopped(path, *args):
        calls.append(path)
        if "checkpoint-2" in str(path):
            raise error
        return write(path, *args)

    monkeypatch.setattr(checkpoints, at, stopped)
    with pytest.raises((type(error), TrainingError)):
        run(make_denoiser, tmp_path, checkpointing_steps=1, max_train_steps=3)
    assert calls and find_latest(tmp_path).name == "checkpoint-1" and not list(tmp_path.glob(".*"))


def test_small_shared_memory(train_args, tmp_path):
    small = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        'mount -t tmpfs -o size=16k tmpfs /dev/shm && "$@"',
        "-",
    ]
    if shutil.which("unshare") is None or subprocess.run([*small, "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    args = map(str, train_args(dataloader_num_workers=1))
    command = [*small, sys.executable, "train_clevr.py", *args]
    done = subprocess.run(command, cwd=ROOT, env=script_env(tmp_path), capture_output=True, text=True, timeout=200)
    check_refused(done.returncode, done.stderr.splitlines()[-1], "--dataloader_num_workers", "/dev/shm")
    assert "Traceback" not in done.stderr


def start(tmp_path, train_args, *more, **environment):
    command = [
        sys.executable,
        "train_clevr.py",
        *map(str, train_args(max_train_steps=10**6, checkpointing_steps=1)),
        *more,
    ]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    env = script_env(tmp_path, **environment)
    return subprocess.Popen(command, cwd=ROOT, env=env, start_new_session=True, preexec_fn=hear_interrupts, **streams)


def hear_interrupts():
    """What a shell starts in the background ignores Ctrl-C, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("number", "code", "words"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "SIGTERM")]
)
def test_stopped_run_says_how_to_go_on(train_args, tmp_path, number, code, words):
    """One line, its exit code, nothing temporary left; a resumed run equals a straight one."""
    folder = tmp_path / "out" / "clevr"
    more = ["--checkpoints_total_limit", "2", "--dataloader_num_workers", "1"]
    process = start(tmp_path, train_args, *more)
    deadline = time.monotonic() + 120
    while not list(folder.glob("checkpoint-*")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    assert words in last and "--resume_from_checkpoint latest" in last and "checkpoint-" in last
    assert {p.name for p in folder.glob(".*")} == set()
    assert find_latest(folder) is not None


def test_without_home_passwd_and_utf8(train_args, tmp_path):
    """A user number without an entry, no HOME, an ASCII locale, and names that ASCII does not have."""
    stranger = ["unshare", "--user", "--map-user=54321"]
    if shutil.which("unshare") is None or subprocess.run([*stranger, "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    place = tmp_path / "Szene-\u00e4\u00f6\u00fc"
    args = map(str, train_args(output_dir=place, max_train_steps=1, num_validation_images=1))
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    env = script_env(tmp_path, HOME=None, USER=None, LOGNAME=None, IGM_CACHE=None, **ascii_only)
    command = [*stranger, sys.executable, "train_clevr.py", *args]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, timeout=200)
    err = done.stderr.decode(errors="replace")
    assert done.returncode == 0, err
    assert "Traceback" not in err and (place / "clevr" / "checkpoint-1").is_dir()


def test_accelerates_precision_is_honoured(run_main, train_args, tmp_path, monkeypatch):
    """`accelerate launch --mixed_precision bf16` says so by the environment; the option wins."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    for name, given in (("bf16", {}), ("no", {"mixed_precision": "no"})):
        code, _, err = run_main("train_clevr", *train_args(max_train_steps=1, output_dir=tmp_path / name, **given))
        assert code == 0, err
        AcceleratorState._reset_state(reset_partial_state=True)
        state = json.loads((tmp_path / name / "clevr" / "checkpoint-1" / "training.json").read_text())
        assert state["options"]["mixed_precision"] == name
    one, other = (load_file(tmp_path / name / "clevr" / "checkpoint-1" / NETWORK) for name in ("bf16", "no"))
    assert any(not torch.equal(one[name], other[name]) for name in one)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    AcceleratorState._reset_state(reset_partial_state=True)
    code, _, err = run_main("train_clevr", *train_args())
    check_refused(code, err.splitlines()[-1], "mixed_precision fp8")


@pytest.mark.slow
def test_accelerates_config_file_is_honoured(run_script, train_args, tmp_path):
    config = tmp_path / "accelerate.yaml"
    config.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\nmixed_precision: bf16\nuse_cpu: true\n"
    )
    done = run_script(
        "-m", "accelerate.commands.launch", "--config_file", config, "train_clevr.py", *train_args(max_train_steps=1)
    )
    assert done.returncode == 0, done.stderr
    state = json.loads((tmp_path / "out" / "clevr" / "checkpoint-1" / "training.json").read_text())
    assert state["options"]["mixed_precision"] == "bf16"


def test_two_trainings_at_once_for_real(train_args, tmp_path):
    """Started together: one trains, the other is told; the first's checkpoints are whole."""
    processes = [start(tmp_path, lambda **c: train_args(**{**c, "max_train_steps": 6})) for _ in range(2)]
    results = {}

    def wait(number):
        results[number] = processes[number].communicate(timeout=200)[1]

    threads = [threading.Thread(target=wait, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    codes = sorted(process.returncode for process in processes)
    assert codes == [0, 2], results
    assert sum("is being written by process" in err for err in results.values()) == 1
    assert find_latest(tmp_path / "out" / "clevr").name == "checkpoint-6"


def test_resumed_after_everything_is_the_same(make_denoiser, tmp_path):
    """Own checkpoints beside foreign ones, then a kill: still the weights of an undisturbed run."""
    run(make_denoiser, tmp_path / "straight")
    folder = tmp_path / "run"

    def stop(step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(make_denoiser, folder, checkpointing_steps=2, validation_steps=2, validate=stop)
    run(make_denoiser, folder, resume_from_checkpoint="latest")
    assert_equal(folder / "checkpoint-4", tmp_path / "straight" / "checkpoint-4")
