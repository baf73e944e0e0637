"""The published step that the benchmark measures is the project's in value and gradient, for more work."""

import sys

import pytest
import torch
from conftest import ROOT
from test_training import make_batches, training_loss

from igm.training.batches import Share

sys.path.insert(0, str(ROOT / "benchmarks"))

from training_throughput import TASKS, Clock, Pictures, published_prediction


def test_published_prediction_is_the_projects(make_denoiser, tmp_path):
    """Same loss and gradients, although one runs padded slots and an unconditional pass."""
    denoiser = make_denoiser("unet")
    denoiser.network.requires_grad_(True)
    pictures = Pictures(TASKS["clevr"], tmp_path, 4)
    posterior = torch.randn(2, 4, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    class Latents(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, i):
            return {"posterior_mean": posterior[0, i], "posterior_std": posterior[1, i].abs(), **pictures.annotation(i)}

    batches = make_batches(Latents(), Share(4), seed=0)
    batch, rows = batches[0], batches.order.rows(0)
    results = [training_loss(denoiser, batch)]
    x_0 = batch["posterior_mean"] + batch["posterior_std"] * batch["posterior_eps"]
    mask = torch.stack([pictures.annotation(i)["mask"] for i in rows])
    x_t = denoiser.add_noise(x_0, batch["eps"], batch["t"])
    prediction = published_prediction(denoiser, x_t, batch["t"], pictures.conds[rows], mask)
    results.append((prediction - batch["eps"]).square().mean())
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=0)
    weights = [p for p in denoiser.network.parameters() if p.requires_grad]
    ours, published = (torch.autograd.grad(loss, weights, allow_unused=True) for loss in results)
    for a, b in zip(ours, published, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", list(TASKS))
def test_pictures_have_the_tasks_format(tmp_path, name):
    pictures = Pictures(TASKS[name], tmp_path, 6)
    item = pictures[5]
    side = TASKS[name].resolution
    assert item["pixel_values"].shape == (3, side, side) and item["conds"].shape[1] == TASKS[name].cond_size
    counts = {int(pictures.annotation(i)["mask"].sum()) for i in range(6)}
    assert counts <= ({3, 4, 5} if name == "clevr" else {3})


def test_clock_adds_up():
    clock = Clock(torch.device("cpu"), timed=True)
    for _ in range(2):
        with clock.part("load"):
            pass
    assert set(clock.seconds) == {"load"} and 0 <= clock.seconds["load"] < 1
