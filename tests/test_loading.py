"""A model is what its files say, or it is refused in one line: weights, configs, schedules, pipelines."""

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from conftest import POSITION_UNET, ROOT, SCHEDULER, UNET
from diffusers import AutoencoderKL, DDIMScheduler, DPMSolverMultistepScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from igm.hub import EMA_DIR, NETWORK_DIR
from igm.models import ModelError
from igm.models.checkpoint import load_network, load_scheduler
from igm.models.codec import PatchPCA, codec_fingerprint, load_codec
from igm.models.configs import check_config, check_schedule, read_config
from igm.models.denoiser import Denoiser, build_denoiser
from igm.models.sampling import CompositionPipeline
from igm.models.stable_diffusion import StableDiffusion
from igm.models.unet import build_network, network_class, read_network
from igm.models.weights import STEM

WEIGHTS = f"{STEM}.safetensors"


def refused(call, *words, **options) -> str:
    """The message with which `call` refuses, checked to be one line that has the words."""
    with pytest.raises(ModelError) as caught:
        call(**options)
    message = str(caught.value)
    assert "\n" not in message and message.isprintable(), message
    for word in words:
        assert str(word) in message, message
    return message


def rewrite(file: Path, change) -> None:
    """Replace the tensors of a safetensors file by what `change` makes of them."""
    tensors = load_file(file)
    save_file(change(tensors) or tensors, file, metadata={"format": "pt"})


def edit(file: Path, **changes) -> None:
    """Change values of a JSON file; Ellipsis takes one out."""
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: value for name, value in config.items() if value is not ...}))


@pytest.fixture
def checkpoint(make_denoiser, tiny_vae_dir, tmp_path):
    """A whole position model in a folder."""
    folder = tmp_path / "model"
    make_denoiser("position_unet", codec=load_codec(tiny_vae_dir)).save_pretrained(folder)
    return folder


# Weights


def lacks(tensors):
    del tensors[sorted(tensors)[3]]


def surplus(tensors):
    tensors["another.weight"] = torch.zeros(3)


def other_shape(tensors):
    name = sorted(tensors)[0]
    tensors[name] = tensors[name][None].clone()


def empty(tensors):
    tensors[sorted(tensors)[0]] = torch.zeros(0)


def whole_numbers(tensors):
    name = sorted(tensors)[0]
    tensors[name] = tensors[name].long()


def not_a_number(tensors):
    tensors[sorted(tensors)[0]].view(-1)[0] = float("nan")


def infinite(tensors):
    tensors[sorted(tensors)[-1]].view(-1)[-1] = float("-inf")


def enormous(tensors):
    return {name: torch.full_like(tensor, 1e38, dtype=torch.float32) for name, tensor in tensors.items()}


DAMAGES = [lacks, surplus, other_shape, empty, whole_numbers, not_a_number, infinite, enormous]


@pytest.mark.parametrize("part", [NETWORK_DIR, "vae"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_weights_that_are_not_the_configs_are_refused(checkpoint, part, damage):
    rewrite(checkpoint / part / WEIGHTS, damage)
    message = refused(lambda: Denoiser.from_pretrained(checkpoint), checkpoint)
    assert ("lacks the tensor" in message) == (damage is lacks)


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"\xff" * 8 + b"{}", b"PK\3\4" + b"x" * 50])
@pytest.mark.parametrize("part", [NETWORK_DIR, "vae"])
def test_files_that_are_no_safetensors(checkpoint, part, data):
    (checkpoint / part / WEIGHTS).write_bytes(data)
    refused(lambda: Denoiser.from_pretrained(checkpoint), checkpoint / part / WEIGHTS, "cannot be loaded")


@pytest.mark.parametrize("part", [NETWORK_DIR, "vae", EMA_DIR])
@pytest.mark.parametrize("kind", ["bin", "bin beside another"])
def test_pickles_are_never_read(checkpoint, part, kind, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *args, **options: pytest.fail("unpickled"))
    if part == EMA_DIR:
        shutil.copytree(checkpoint / NETWORK_DIR, checkpoint / part)
    weights = checkpoint / part / WEIGHTS
    weights.with_suffix(".bin").write_bytes(weights.read_bytes())
    weights.rename(weights.with_name("other.safetensors")) if kind != "bin" else weights.unlink()
    refused(lambda: Denoiser.from_pretrained(checkpoint), f"{STEM}.bin", "convert")


@pytest.mark.parametrize("shard_size", ["10GB", "20KB"])
@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("part", [NETWORK_DIR, "vae"])
def test_shards_and_half_precision_files_load(make_denoiser, tiny_vae_dir, tmp_path, part, variant, shard_size):
    """As diffusers writes them, with `variant="fp16"` and in several files."""
    codec = load_codec(tiny_vae_dir)
    denoiser = make_denoiser("position_unet", codec=codec)
    model = denoiser.network if part == NETWORK_DIR else codec.vae
    model = model.half() if variant else model
    expected = {name: value.float().clone() for name, value in model.state_dict().items()}
    model.save_pretrained(tmp_path / part, variant=variant, max_shard_size=shard_size)
    files = list((tmp_path / part).glob("*.safetensors"))
    assert (len(files) > 1) == (shard_size == "20KB") and all(("fp16" in f.name) == (variant == "fp16") for f in files)
    found = (load_network(tmp_path) if part == NETWORK_DIR else load_codec(tmp_path).vae).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_full_precision_comes_before_half(make_denoiser, tmp_path):
    network = make_denoiser().network
    network.save_pretrained(tmp_path / NETWORK_DIR)
    shutil.copy(tmp_path / NETWORK_DIR / WEIGHTS, tmp_path / NETWORK_DIR / f"{STEM}.fp16.safetensors")
    rewrite(tmp_path / NETWORK_DIR / f"{STEM}.fp16.safetensors", lambda t: {k: v * 2 for k, v in t.items()})
    found = load_network(tmp_path).state_dict()
    assert all(torch.equal(found[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("name", ["../outside.safetensors", "gone.safetensors", 5, "/etc/passwd"])
def test_an_index_names_files_beside_it(make_denoiser, tmp_path, name):
    make_denoiser().network.save_pretrained(tmp_path / NETWORK_DIR, max_shard_size="20KB")
    index = tmp_path / NETWORK_DIR / f"{STEM}.safetensors.index.json"
    shards = json.loads(index.read_text())["weight_map"]
    edit(index, weight_map=dict.fromkeys(shards, name))
    refused(lambda: load_network(tmp_path), index)


def test_attention_of_old_files_loads(tmp_path):
    """Stable Diffusion's own VAE files name its attention's parts as diffusers did before 2023."""
    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4)
    vae.save_pretrained(tmp_path / "vae")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(tensors):
        for new, name in old.items():
            tensors = {k.replace(f".{new}.", f".{name}.") if "attentions" in k else k: v for k, v in tensors.items()}
        return tensors

    rewrite(tmp_path / "vae" / WEIGHTS, rename)
    assert any(".proj_attn." in name for name in load_file(tmp_path / "vae" / WEIGHTS))
    found = load_codec(tmp_path).vae.state_dict()
    assert all(torch.equal(found[name], value) for name, value in vae.state_dict().items())


def test_loaded_weights_do_not_lie_in_the_file(make_denoiser, tmp_path):
    network = make_denoiser().network
    network.save_pretrained(tmp_path / NETWORK_DIR)
    found = load_network(tmp_path)
    (tmp_path / NETWORK_DIR / WEIGHTS).write_bytes(b"")  # a mapped file would end the process here
    assert all(torch.equal(found.state_dict()[name], value) for name, value in network.state_dict().items())
    assert all(p.requires_grad for p in found.parameters()) and not found.training


def test_strict_loading_is_diffusers_loading(make_denoiser, tmp_path):
    """The same numbers, buffers that no file holds included."""
    for kind in ("unet", "position_unet", "attribute_unet"):
        make_denoiser(kind).network.save_pretrained(tmp_path / kind)
        config = read_config(tmp_path / kind, "x")
        theirs = network_class(config, "x").from_pretrained(tmp_path / kind, low_cpu_mem_usage=False)
        ours = read_network(tmp_path / kind, "--checkpoint")
        for own, other in (
            (ours.state_dict(), theirs.state_dict()),
            (dict(ours.named_buffers()), dict(theirs.named_buffers())),
        ):
            assert own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)


# Configs


@pytest.mark.parametrize(
    "changes",
    [
        *({"sample_size": value} for value in ("8", 8.5, True, None, [8], 0, -8, 10**6, 10**400, [])),
        *({"in_channels": value} for value in ("4", [4], 8, 10**9, None)),
        *(
            {"block_out_channels": value}
            for value in ([16], [16, "32"], [16, 32.5], [10**6, 10**6], "16", [[16], [32]])
        ),
        *({"layers_per_block": value} for value in (10**9, 2, 0, [1, 1], True)),
        *({"windows": value} for value in ([0.1], [0.1, 0], [0.1, 1e308], [0.1, "x"], 0.1, ["nan", 1])),
        {"head_channels": 10**5},
        {"head_layers": 10**6},
        {"cond_size": 3},
        {"attention": [0, 0]},
        {"windows_": [0.1, 0.3], "windows": ...},
        *(
            {"_class_name": value}
            for value in ("Elsewhere", ["PositionUNet"], 5, {}, "AttributeUNet", "SD3Transformer2DModel")
        ),
    ],
    ids=str,
)
def test_impossible_network_configs_are_refused_at_once(checkpoint, changes):
    edit(checkpoint / NETWORK_DIR / "config.json", **changes)
    started = time.process_time()
    refused(lambda: Denoiser.from_pretrained(checkpoint), checkpoint)
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    "changes",
    [
        {"down_block_types": ["DownBlock2D", "Nonsense"]},
        {"transformer_layers_per_block": 10**9},
        {"norm_eps": 0},
        {"norm_eps": 1e300},
        {"mid_block_scale_factor": 0},
        {"center_input_sample": "no"},
        {"downsample_padding": 3},
        {"out_channels": 8},
        {"attention_head_dim": 3},
        {"addition_embed_type": "text_time", "addition_time_embed_dim": 8},
        {"freq_shift": 64},
        {"cross_attention_dim": [2]},
    ],
    ids=str,
)
def test_impossible_configs_of_the_published_kind(make_denoiser, tiny_vae_dir, tmp_path, changes):
    make_denoiser("unet", codec=load_codec(tiny_vae_dir)).save_pretrained(tmp_path)
    edit(tmp_path / NETWORK_DIR / "config.json", **changes)
    refused(lambda: Denoiser.from_pretrained(tmp_path), tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        {**UNET, "block_out_channels": [2**19, 2**19]},
        {**UNET, "layers_per_block": 10**9},
        {**POSITION_UNET, "head_channels": 2**20, "sample_size": 256},
        {**POSITION_UNET, "block_out_channels": [16] * 10**5, "attention": [False] * 10**5},
        {**UNET, "transformer_layers_per_block": 10**6},
    ],
    ids=range(5),
)
def test_networks_that_no_machine_holds_are_refused_at_once(config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    started = time.process_time()
    refused(lambda: build_network(read_config(tmp_path, "--unet_config"), f"--unet_config {tmp_path}"), tmp_path)
    assert time.process_time() - started < 20


def test_the_trial_draws_no_random_numbers():
    networks = []
    for _ in range(2):
        torch.manual_seed(3)
        networks.append(build_network(UNET) if networks else UNet2DConditionModel.from_config(UNET))
    first, second = (network.state_dict() for network in networks)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "changes",
    [
        *({"_class_name": value} for value in (..., None, "VQModel", ["AutoencoderKL"], "UNet2DConditionModel")),
        *({"scaling_factor": value} for value in (0, -1, "0.5", 1e300, None, [0.5])),
        *({"latent_channels": value} for value in (8, "4", 0, 10**9)),
        *({"block_out_channels": value} for value in ([8], [8, 8, 8], 8, [2**20, 2**20])),
        {"shift_factor": 0.1},
        {"latents_mean": [0, 0, 0, 0]},
        {"layers_per_block": 10**9},
        {"norm_num_groups": 3},
    ],
    ids=str,
)
def test_impossible_codecs_are_refused(tiny_vae_dir, tmp_path, changes):
    folder = shutil.copytree(tiny_vae_dir, tmp_path / "codec")
    edit(folder / "vae" / "config.json", **changes)
    refused(lambda: load_codec(folder), folder / "vae", "--pretrained_model_name")


@pytest.mark.parametrize(
    "changes", [{"patch_size": 0}, {"patch_size": 8}, {"latent_channels": 5}, {"whitening": 2}, {"whitening": "0"}]
)
def test_impossible_linear_codecs_are_refused(tmp_path, changes):
    codec = PatchPCA(4, 6)
    codec.fit(torch.rand(8, 3, 16, 16))
    codec.save_pretrained(tmp_path / "vae")
    assert codec_fingerprint(load_codec(tmp_path)) == codec_fingerprint(codec)
    edit(tmp_path / "vae" / "config.json", **changes)
    refused(lambda: load_codec(tmp_path), tmp_path / "vae")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a": ' * 2000 + "1" + "}" * 2000,
        '{"a": ' + "9" * 5000 + "}",
        '{"a": NaN}',
        '{"a": 1, "a": 2}',
        "",
        "\ud800",
        '{"a": 1',
        "5",
        '{"a": "' + "x" * 2**24 + '"}',
    ],
    ids=range(10),
)
def test_texts_that_are_no_config(tmp_path, text):
    file = tmp_path / "config.json"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    if text.startswith('{"a": {'):  # deep, but JSON
        return
    refused(lambda: read_config(file, "--unet_config"), file, "--unet_config")


def test_a_config_may_have_a_byte_order_mark(tmp_path):
    (tmp_path / "config.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(UNET).encode())
    assert read_config(tmp_path, "--unet_config") == UNET


def test_configs_in_the_field_are_fine():
    """Every config that is shipped, and the types of older versions."""
    for file in (ROOT / "configs").glob("*/unet/*.json"):
        with torch.device("meta"):
            build_network(read_config(file, "--unet_config"))
    old = {
        "norm_num_groups": None,
        "attention_head_dim": [5, 10, 20, 20],
        "only_cross_attention": False,
        "norm_eps": 1e-05,
    }
    check_config(UNet2DConditionModel, old, "x")
    check_config(AutoencoderKL, {"sample_size": 768, "scaling_factor": 0.18215}, "x", {})


def test_small_channel_config_is_the_published_one():
    small, usual = (
        read_config(ROOT / "configs" / "clevr-2D-pos" / "unet" / name, "x")
        for name in ("config_small_channel.json", "config.json")
    )
    assert small == {**usual, "block_out_channels": [256, 512, 768, 768]}


# Schedules


@pytest.mark.parametrize(
    "changes",
    [
        *({"num_train_timesteps": value} for value in (0, -1, "1000", 1000.5, True, None, 10**6, 10**400)),
        *({"beta_start": value} for value in (0, -1, 1, 2, "x", None, [1], 1e308, 0.5)),
        *({"beta_end": value} for value in (0, 1, 1.5, "x", 1e-9)),
        *({"beta_schedule": value} for value in ("cosine", 5, None, "laplace")),
        *({"prediction_type": value} for value in ("noise", 5, None, ["epsilon"])),
        *({"trained_betas": value} for value in ([0.1], [], "x", [0.1] * 999 + [1.0], [0.1] * 999 + ["x"], 0.5)),
        *({"steps_offset": value} for value in (-1, 1000, 0.5, "1")),
        {"timestep_spacing": "odd"},
        {"clip_sample": "no"},
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_impossible_schedules_are_refused(tmp_path, changes):
    file = tmp_path / "scheduler_config.json"
    file.write_text(json.dumps({**SCHEDULER, **changes}))
    refused(lambda: load_scheduler(file), file, next(iter(changes)))


def test_schedules_in_the_field_are_fine():
    check_schedule({"beta_schedule": "scaled_linear", "skip_prk_steps": True, "set_alpha_to_one": False}, "x")
    check_schedule({"trained_betas": [0.1] * 10, "num_train_timesteps": 10}, "x")
    check_schedule({"beta_schedule": "squaredcos_cap_v2"}, "x")


# The published code's


@pytest.fixture
def published(make_denoiser, tiny_vae_dir, tmp_path):
    """A function (kind) -> a checkpoint of the published code: its network, and nothing else."""

    def make(kind):
        folder = tmp_path / f"{kind}-80000"
        make_denoiser(kind).network.save_pretrained(folder / NETWORK_DIR)
        return Denoiser.from_pretrained(folder, codec=tiny_vae_dir)

    return make


def test_published_checkpoints_get_their_schedule_and_pixels(published, capsys):
    positions, faces = published("unet"), published("face_unet")
    for denoiser in (positions, faces):
        assert denoiser.scheduler.config.beta_schedule == "linear" and denoiser.scheduler.config.steps_offset == 1
        assert denoiser.scheduler.config.prediction_type == "epsilon"
    assert positions.facts.pixel_range == (-1, 1) and faces.facts.pixel_range == (0, 1)
    assert capsys.readouterr().err.count("[0, 1]") == 1


def test_pixels_are_mapped_before_the_codec_and_back_after_it(published, tiny_vae_dir):
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    codec, faces, positions = load_codec(tiny_vae_dir), published("face_unet"), published("unet")
    with torch.no_grad():
        for denoiser, given in ((faces, (images + 1) / 2), (positions, images)):
            for found, expected in zip(denoiser.encode(images), codec.posterior(given), strict=True):
                torch.testing.assert_close(found, expected)
        latents = faces.encode(images)[0]
        torch.testing.assert_close((faces.decode(latents) + 1) / 2, codec.decode(latents))
        torch.testing.assert_close(positions.decode(latents), codec.decode(latents))


@pytest.mark.parametrize("sampler", ["DDIMScheduler", "DPMSolverMultistepScheduler"])
def test_samples_are_those_of_the_published_pipeline(make_denoiser, sampler):
    """The loop of StableDiffusionPipeline, which puts steps_offset to 1 whatever the config says, written by hand."""
    denoiser = make_denoiser("unet", codec=torch.nn.Identity())
    denoiser.decode = lambda latents: latents
    conds = torch.tensor([[0.3, 0.6]]).expand(2, -1)
    pipeline = CompositionPipeline(denoiser, sampler)
    pipeline.set_progress_bar_config(disable=True)
    predict = lambda x_t, t: denoiser.predict_pairs(x_t, t, conds, torch.arange(2))  # noqa: E731
    ours = pipeline(predict, 2, num_inference_steps=10, generator=torch.Generator().manual_seed(0))

    config = {k: v for k, v in SCHEDULER.items() if not k.startswith("_")} | {"steps_offset": 1}
    scheduler = {"DDIMScheduler": DDIMScheduler, "DPMSolverMultistepScheduler": DPMSolverMultistepScheduler}[sampler]
    scheduler = scheduler.from_config(config)
    scheduler.set_timesteps(10)
    x_t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * scheduler.init_noise_sigma
    with torch.no_grad():
        for t in scheduler.timesteps:
            noise = denoiser.network(
                scheduler.scale_model_input(x_t, t), t, encoder_hidden_states=conds[:, None]
            ).sample
            x_t = scheduler.step(noise, t, x_t).prev_sample
    torch.testing.assert_close(ours, x_t, rtol=0, atol=1e-6)


def test_every_schedule_that_ships_has_the_offset():
    files = [*ROOT.glob("configs/*/scheduler/*.json"), *ROOT.glob("models/pretrained/*/scheduler/*.json")]
    assert len(files) >= 7 and all(json.loads(file.read_text())["steps_offset"] == 1 for file in files)


# Facts and files


def test_save_replaces_the_facts(make_denoiser, tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "igm.json").symlink_to(tmp_path / "victim")
    make_denoiser("position_unet", task="clevr").save_pretrained(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "igm.json").read_text())["task"] == "clevr"
    assert (tmp_path / "victim").read_text() == "precious"


def test_building_refuses_the_file_by_name(tiny_vae_dir, tiny_configs, tmp_path):
    file = tmp_path / "unet.json"
    file.write_text(json.dumps({**UNET, "sample_size": "8"}))
    refused(lambda: build_denoiser(file, tiny_configs["scheduler"], load_codec(tiny_vae_dir)), file, "sample_size")


# Pipelines


SHIPPED = ROOT / "models" / "pretrained" / "animals-mini"


@pytest.fixture
def pipeline(tmp_path):
    """The shipped pipeline, to be spoilt."""
    return shutil.copytree(SHIPPED, tmp_path / "sd")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_pipelines_are_loaded_strictly(pipeline, part, damage):
    if part == "text_encoder" and damage in (surplus, whole_numbers):
        pytest.skip("older files have position_ids there, which are whole numbers")
    rewrite(next((pipeline / part).glob("*.safetensors")), damage)
    refused(lambda: StableDiffusion.from_pretrained(pipeline), pipeline)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_pipelines_of_pickles_are_refused(pipeline, part):
    weights = next((pipeline / part).glob("*.safetensors"))
    weights.rename(weights.with_suffix(".bin"))
    refused(lambda: StableDiffusion.from_pretrained(pipeline), part, "pickle", "convert")


def test_half_precision_files_of_a_pipeline_load(pipeline):
    expected = StableDiffusion.from_pretrained(SHIPPED)
    for file in pipeline.rglob("*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))
    found = StableDiffusion.from_pretrained(pipeline)
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), expected.parameters(), strict=True))
    assert torch.equal(found.encode_prompts(["a photo of a cat"]), expected.encode_prompts(["a photo of a cat"]))


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"_class_name": "StableDiffusionXLPipeline", "text_encoder_2": ["transformers", "CLIPTextModel"]}, "XL"),
        (
            {"_class_name": "StableDiffusion3Pipeline", "transformer": ["diffusers", "X"], "unet": ...},
            "StableDiffusion3",
        ),
        ({"_class_name": "FluxPipeline", "transformer": ["diffusers", "X"], "unet": ..., "vae": ...}, "FluxPipeline"),
        ({"_class_name": "StableDiffusionInpaintPipeline"}, "Inpaint"),
        ({"_class_name": ["pipeline", "Mine"]}, "never run"),
        ({"unet": ["mine", "Mine"]}, "Mine"),
        ({"text_encoder": ["transformers", "T5EncoderModel"]}, "T5EncoderModel"),
        ({"unet": "diffusers"}, "unet"),
        ({"vae": []}, "vae"),
    ],
)
def test_other_pipelines_are_refused_with_the_reason(pipeline, changes, word):
    edit(pipeline / "model_index.json", **changes)
    message = refused(lambda: StableDiffusion.from_pretrained(pipeline), pipeline, word)
    assert "Stable Diffusion 1.x or 2.x is needed" in message


def test_an_inpainting_network_is_refused(pipeline, tmp_path):
    torch.manual_seed(0)
    config = {**UNET, "in_channels": 25, "out_channels": 12, "cross_attention_dim": 64}
    UNet2DConditionModel.from_config(config).save_pretrained(pipeline / "unet")
    refused(lambda: StableDiffusion.from_pretrained(pipeline), "inpainting", pipeline)


@pytest.mark.parametrize(
    "scheduler",
    [
        ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        ["os", "system"],
        ["diffusers", "UNet2DModel"],
        [None, None],
        ["diffusers"],
        "DDIMScheduler",
    ],
    ids=str,
)
def test_schedulers_of_other_kinds_are_refused(pipeline, scheduler):
    edit(pipeline / "model_index.json", scheduler=scheduler)
    refused(lambda: StableDiffusion.from_pretrained(pipeline), "scheduler", pipeline)


@pytest.mark.parametrize(
    "changes", [{"num_hidden_layers": 10**9}, {"hidden_size": 10**6}, {"vocab_size": "x"}, {"num_hidden_layers": 3}]
)
def test_impossible_text_encoders_are_refused(pipeline, changes):
    edit(pipeline / "text_encoder" / "config.json", **changes)
    started = time.process_time()
    refused(lambda: StableDiffusion.from_pretrained(pipeline), pipeline / "text_encoder")
    assert time.process_time() - started < 10


def test_whole_numbers_of_a_network_keep_their_type(tmp_path):
    """Batch normalisation counts its batches."""
    from conftest import RESNET

    from igm.baselines.resnet50 import AttributeResNet

    torch.manual_seed(0)
    network = AttributeResNet(**{name: value for name, value in RESNET.items() if name != "_class_name"})
    network(torch.rand(2, 3, 16, 16))
    network.save_pretrained(tmp_path / NETWORK_DIR)
    found, own = load_network(tmp_path).state_dict(), network.state_dict()
    assert {value.dtype for value in own.values()} == {torch.float32, torch.int64}
    assert all(found[name].dtype == value.dtype and torch.equal(found[name], value) for name, value in own.items())
