"""Where it computes; and a process without a home, a user's name or an encoding."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from igm import UserError
from igm.devices import best_device, find_device


def test_devices_that_are_there(monkeypatch):
    assert find_device(None) == best_device() and find_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device("cuda") == torch.device("cuda") and find_device("cuda:1") == torch.device("cuda", 1)
    for name in ("cuda:2", "cuda:7"):
        with pytest.raises(UserError, match="cuda:0 to 1"):
            find_device(name)


@pytest.mark.parametrize(
    "name", ["cuda", "cuda:0", "mps", "gpu", "", "cuda:x", "cpu:1", "xpu", "meta", "cuda:-1", "\x1b[31m"]
)
def test_devices_that_are_not(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device") as caught:
        find_device(name)
    message = str(caught.value)
    assert "\n" not in message and message.isprintable() and "cpu" in message


def test_a_script_says_so_in_one_line(run_main, tmp_path, no_model, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    images = ["--images", ROOT / "sample_images" / "scene.png", "--num_objects", 2, "--output_dir", tmp_path]
    code, _, err = run_main("eval_clevr", *images, "--checkpoint", "clevr-mini", "--device", "cuda")
    assert code == 2 and "--device cuda" in err and len(err.strip().splitlines()) == 1


# As a container starts a process for a user that it does not know: no HOME, and nobody of this number in passwd.
NOBODY = """
import os, pwd, sys

def nobody(*args):
    raise KeyError("no such user")

pwd.getpwuid = pwd.getpwnam = nobody
from igm.api import load_model
import igm.figures, igm.training.loop, igm.evaluation.run
model = load_model(sys.argv[1], device="cpu")
print(model("sample_images/scene.png", num_objects=2, num_candidates=16, num_draws=2, num_steps=1).count)
"""


def test_no_home_no_name_and_an_ascii_locale(tmp_path):
    (tmp_path / "modèle").symlink_to(ROOT / "models" / "pretrained" / "clevr-mini")
    unknown = ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME", "HF_HOME", "MPLCONFIGDIR", "IGM_CACHE")
    env = {k: v for k, v in os.environ.items() if k not in unknown and not k.startswith("LC_")}
    env |= {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", NOBODY, str(tmp_path / "modèle")], cwd=ROOT, env=env, capture_output=True, timeout=240
    )
    assert done.returncode == 0 and done.stdout.strip() == b"2", done.stderr.decode(errors="replace")
