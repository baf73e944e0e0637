"""Batches as functions of the step: their parts, packed pairs in few shapes, and a step that never waits for the device."""

import sys

import pytest
import torch
from accelerate import Accelerator
from test_training import Latents, make_batches, run, training_loss
from torch.utils._python_dispatch import TorchDispatchMode

import igm.training.loop
from igm.models.attention import idle_parameters
from igm.training.batches import NUM_BUCKETS, Share, pad_pairs
from igm.training.compositional import CompositionalLearner
from igm.training.loop import prepare
from igm.training.settings import TrainSettings

SHAPE = (4, 8, 8)


def batches(share=None, size=16, **options):
    return make_batches(Latents(size), share or Share(8), seed=3, **options)


def test_parts_of_a_step_are_the_step(make_denoiser):
    """Two processes with two micro-steps each see what one process with one batch sees; rows go with their noise."""
    whole = batches(Share(8))[1]
    parts = [batches(Share(2, rank, 2, 2))[micro] for micro in (2, 3) for rank in (0, 1)]
    for name in ("posterior_mean", "eps", "posterior_eps", "t"):
        assert torch.equal(torch.cat([part[name] for part in parts]), whole[name]), name
    assert torch.equal(torch.cat([part["conds"] for part in parts]), whole["conds"])


@pytest.mark.parametrize("kind", ["unet", "position_unet"])
def test_padded_pairs_change_neither_loss_nor_gradient(make_denoiser, kind):
    """The network in float64, where the order of sums does not show."""
    results = []
    number = next(i for i in range(9) if len(batches(Share(7))[i]["conds"]) % 2)  # buckets of 21 pairs are even
    for static in (False, True):
        denoiser = make_denoiser(kind).double()
        denoiser.predict_pairs = lambda *args, own=denoiser: type(own).predict_pairs(own, *args).double()
        denoiser.network.requires_grad_(True)
        batch = batches(Share(7), static_shapes=static)[number]
        batch = {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}
        loss = training_loss(denoiser, batch)
        loss.backward()
        results.append((len(batch["conds"]), loss.detach(), [p.grad for p in denoiser.network.parameters()]))
    (real, loss, gradients), (padded, same_loss, same_gradients) = results
    assert padded > real
    torch.testing.assert_close(same_loss, loss, rtol=1e-7, atol=0)
    for gradient, same in zip(gradients, same_gradients, strict=True):
        assert (gradient is None) == (same is None)
        if gradient is not None:
            torch.testing.assert_close(same, gradient, rtol=1e-4, atol=1e-8)


def test_padding_gives_few_sizes():
    sizes, most = set(), 5 * 128
    for number in range(128, most + 1):
        pairs = {"conds": torch.rand(number, 2), "weights": torch.ones(number), "index": torch.arange(number)}
        conds, weights, index = pad_pairs(pairs, "weights", most).values()
        assert number <= len(conds) < number + most / NUM_BUCKETS and len(conds) <= most
        assert weights.sum() == number and (index[number:] == 0).all() and (weights[number:] == 0).all()
        assert len(conds) == len(weights) == len(index)
        sizes.add(len(conds))
    assert len(sizes) <= NUM_BUCKETS


def test_loader_processes_make_the_same_batches():
    here, elsewhere = (list(batches(static_shapes=True).loader(1, 4, workers)) for workers in (0, 2))
    assert len(here) == len(elsewhere) == 3
    for first, second in zip(here, elsewhere, strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)


class Recorder(TorchDispatchMode):
    """Records the names of all operators that run."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.names.add(operator.name())
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["unet", "position_unet"])
@pytest.mark.parametrize("options", [{}, {"snr_gamma": 5.0}])
def test_step_reads_nothing_back_from_the_device(make_denoiser, kind, options):
    """No operator whose result the host must wait for, from the loss to the clipped gradient."""
    accelerator, denoiser = Accelerator(cpu=True), make_denoiser(kind)
    denoiser.network.requires_grad_(True)
    prepare(accelerator, CompositionalLearner(denoiser), TrainSettings(train_batch_size=8), Latents()[0])
    batch = batches()[0]
    waits = {"aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::item", "aten::equal"}
    with Recorder() as found:
        accelerator.backward(training_loss(denoiser, batch, **options))
        accelerator.clip_grad_norm_(denoiser.network.parameters(), 1.0)
    assert "aten::convolution_backward" in found.names  # the step ran
    assert not found.names & waits
    with Recorder() as found:
        bool(torch.ones(1).isfinite())  # the test would see one
    assert found.names & waits


def test_compiled_run_equals_an_eager_one(make_denoiser, tmp_path, monkeypatch):
    """Captured as static graphs and run by PyTorch: same weights, one capture per bucket, pictures drawn without one."""
    captured, drawn = [], []
    original = torch.nn.Module.compile

    def backend(graph, inputs):
        captured.append([tuple(x.shape) for x in inputs])
        return graph.forward

    def validate(step):
        before = len(captured)
        denoiser = make_denoiser("position_unet")
        denoiser.network.compile(dynamic=False)
        denoiser.predict(torch.zeros(1, *SHAPE), torch.zeros(1, dtype=torch.long), torch.zeros(1, 1, 2))
        drawn.append(len(captured) - before)

    with_backend = lambda self, **options: original(self, backend=backend, **options)  # noqa: E731
    monkeypatch.setattr(torch.nn.Module, "compile", with_backend)
    options = {
        "train_batch_size": 7,
        "dataset": Latents(16),
        "adam_epsilon": 1e-3,
        "kind": "position_unet",
        "max_train_steps": 2,
    }
    eager = run(make_denoiser, tmp_path / "eager", **options).network.state_dict()
    assert not captured
    compiled = run(make_denoiser, tmp_path / "compiled", compile=True, validate=validate, validation_steps=2, **options)
    assert captured and drawn == [0]
    for name, value in compiled.network.state_dict().items():
        torch.testing.assert_close(value, eager[name], rtol=1e-4, atol=1e-6, msg=name)
    assert list(eager) == list(compiled.network.state_dict())  # its weights keep their names


def test_wrong_code_is_dropped(make_denoiser, tmp_path, monkeypatch, capsys):
    """A compiler whose gradients are three times too large changes no weight of the run."""
    original = torch.nn.Module.compile

    def backend(graph, inputs):
        def wrong(*values):
            return [v + 2 * (v - v.detach()) if v.requires_grad else v for v in graph(*values)]

        return wrong

    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: original(self, backend=backend, **options))
    options = {"kind": "position_unet", "max_train_steps": 2}
    eager, compiled = (
        run(make_denoiser, tmp_path / str(c), compile=c, **options).network.state_dict() for c in (False, True)
    )
    assert all(torch.equal(eager[name], compiled[name]) for name in eager)
    assert capsys.readouterr().err.count("--compile gives other gradients than eager PyTorch here") == 1


@pytest.mark.slow
def test_trained_with_inductor(make_denoiser, tmp_path):
    """The real compiler, whose code is used or, where it is wrong, dropped: the weights of an eager run either way."""
    from igm.devices import compiler_works

    if not compiler_works(torch.device("cpu")):
        pytest.skip("torch.compile does not work on this machine")
    options = {"kind": "position_unet", "max_train_steps": 2, "adam_epsilon": 1e-3}
    eager, compiled = (
        run(make_denoiser, tmp_path / str(c), compile=c, **options).network.state_dict() for c in (False, True)
    )
    for name, value in eager.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-3, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["no", "fp16", "bf16"])
def test_cuda_step_does_not_synchronise(make_denoiser, precision):
    accelerator, denoiser = Accelerator(mixed_precision=precision), make_denoiser("unet")
    denoiser.network.requires_grad_(True)
    learner = CompositionalLearner(denoiser)
    optimizer, _ = prepare(accelerator, learner, TrainSettings(train_batch_size=8), Latents()[0])
    for number in range(4):
        batch = {name: value.cuda() for name, value in batches()[number].items()}
        torch.cuda.set_sync_debug_mode("error" if number > 1 else "default")  # the first steps allocate
        try:
            accelerator.backward(training_loss(denoiser, batch))
            accelerator.clip_grad_norm_(denoiser.network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_idle_weights_are_left_as_they_are(make_denoiser, tmp_path):
    """Queries and keys of single tokens have no gradient; the optimizer must not decay them either."""
    before = make_denoiser("unet").network
    after = run(make_denoiser, tmp_path, max_train_steps=2, adam_weight_decay=0.5).network
    pairs = list(zip(idle_parameters(before), idle_parameters(after), strict=True))
    assert pairs and all(torch.equal(*pair) for pair in pairs)


def test_8bit_adam_without_its_package(make_denoiser, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(igm.training.loop.TrainingError, match="pip install bitsandbytes"):
        run(make_denoiser, tmp_path, use_8bit_adam=True)
