"""What made a result: the command, the versions, the device and the commit."""

import json
import subprocess
import sys

import torch
from conftest import ROOT

import igm.provenance
from igm.provenance import git_commit, provenance


def test_everything_is_there(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train_clevr.py", "--seed", "3"])
    found = provenance("cpu", processes=2).to_json()
    assert found["command"] == ["train_clevr.py", "--seed", "3"] and found["processes"] == 2
    assert found["versions"]["torch"] == torch.__version__.split("+")[0] or torch.__version__ in str(found["versions"])
    assert found["device"].startswith("cpu") and found["threads"] == torch.get_num_threads()
    assert json.loads(json.dumps(found)) == found


def test_commit_is_that_of_the_checkout():
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        assert git_commit() is None
    else:
        assert git_commit().removesuffix("-dirty") == done.stdout.strip()


def test_an_installed_copy_has_no_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(igm.provenance, "__file__", str(tmp_path / "site-packages" / "igm" / "provenance.py"))
    assert git_commit.__wrapped__() is None
