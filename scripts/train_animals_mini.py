"""Make models/pretrained/animals-mini: a small pipeline in Stable Diffusion's format, trained on pictures of ONE animal.

The parts are made one after the other; each is kept in --output_dir and not made again, and the network's training goes
on from its newest checkpoint. No picture of two animals is ever seen.

Example:
    python scripts/train_animals_mini.py --output_dir outputs/animals-mini
"""

import argparse
import json
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from igm.cli.groups import add_dry_run_option, new_parser
from igm.cli.launch import run
from igm.data.synthetic.animals import scenes, sprites
from igm.dry_run import describe, memory_estimate, parts_of
from igm.facts import FACTS_FILE, Facts
from igm.models.codec import KLCodec
from igm.models.denoiser import Denoiser, load_network
from igm.settings import positive
from igm.training.batches import step_generator
from igm.training.checkpoints import list_checkpoints, tidy_configs
from igm.training.loop import TrainSettings, train

RESOLUTION, DRAWN_AT, MAX_TOKENS = 32, 64, 16
OFTEN = {"cat": 4, "dog": 4, "rabbit": 4}  # drawn so many times as often as the other animals
PROMPT = "a photo of a {}"
WORDS = "a photo of and , . the an picture image drawing two animal animals with background"
TEXT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (16, 32, 64),
    "layers_per_block": 1,
    "latent_channels": 12,
    "norm_num_groups": 8,
    "sample_size": RESOLUTION,
}
UNET = {
    "sample_size": RESOLUTION // 4,
    "in_channels": VAE["latent_channels"],
    "out_channels": VAE["latent_channels"],
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "mid_block_type": None,
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (64, 128),
    "layers_per_block": 1,
    "attention_head_dim": 4,
    "norm_num_groups": 16,
    "cross_attention_dim": TEXT["hidden_size"],
}
T_RANGE = (200, 600)  # where most pairs of a seed that no evaluation uses come out right
# Stable Diffusion's betas; v-prediction, because a small network that predicts noise ignores its prompt at low noise.
SCHEDULER = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "prediction_type": "v_prediction",
}


def parse_options() -> argparse.Namespace:
    """All options; argparse ends the program on a wrong one."""
    parser = new_parser(__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/animals-mini"), help="parts and checkpoints")
    parser.add_argument("--export_to", type=Path, help="write the finished pipeline here, in float16")
    parser.add_argument("--classes", nargs="+", default=list(sprites()), help="animals to train on")
    parser.add_argument("--num_images", type=positive, default=16_000, help="training pictures, one animal each")
    parser.add_argument("--vae_steps", type=positive, default=1200, help="of 32 pictures")
    parser.add_argument("--max_train_steps", type=positive, default=5000, help="of --train_batch_size pictures")
    parser.add_argument("--train_batch_size", type=positive, default=64, help="pictures per step")
    parser.add_argument("--learning_rate", type=float, default=1e-3, help="of the network")
    parser.add_argument("--seed", type=int, default=0, help="of pictures, weights and noise")
    add_dry_run_option(parser)
    return parser.parse_args()


def make_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer that knows `WORDS` and the animals as one token each, and spells every other word."""
    words = [*WORDS.split(), *(part for name in sprites() for part in name.split())]
    letters = sorted(set("abcdefghijklmnopqrstuvwxyz0123456789,.-'!?"))
    vocabulary, merges = [*letters, *(c + "</w>" for c in letters)], []
    for word in dict.fromkeys(words):
        pieces = [*word[:-1], word[-1] + "</w>"]
        for pair in merges:  # what the merges so far make of it, in their order
            pieces = join(pieces, pair)
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            vocabulary.append(pieces[0] + pieces[1])
            pieces = join(pieces, merges[-1])
    vocabulary = list(dict.fromkeys(vocabulary)) + ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n")
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=MAX_TOKENS)
    tokenizer.save_pretrained(folder)
    return tokenizer


def join(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    """Replace every neighbouring `pair` in `pieces` by its concatenation."""
    out = []
    for piece in pieces:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return out


def make_text_encoder(folder: Path, tokenizer: CLIPTokenizer, seed: int) -> CLIPTextModel:
    """A small CLIP text encoder with random weights; it stays frozen, the network learns to read it."""
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **TEXT,
    )
    encoder = CLIPTextModel(config).eval().requires_grad_(False)
    encoder.save_pretrained(folder)
    return encoder


def make_pictures(file: Path, classes: list[str], number: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures of one animal each (N, 3, R, R) uint8 and their class numbers (N,); kept in `file`."""
    if not file.is_file():
        pictures = np.empty((number, RESOLUTION, RESOLUTION, 3), np.uint8)
        labels = np.empty(number, np.int64)
        weighted = [name for name in classes for _ in range(OFTEN.get(name, 1))]
        drawn = scenes(number, weighted, (1, 1), DRAWN_AT, seed)
        for i, (picture, animals) in enumerate(tqdm(drawn, "pictures", total=number)):
            small = picture.resize((RESOLUTION, RESOLUTION), Image.Resampling.BILINEAR)
            pictures[i], labels[i] = np.asarray(small), classes.index(animals[0])
        np.savez(file, pictures=pictures, labels=labels)
    with np.load(file) as arrays:
        return torch.from_numpy(arrays["pictures"]).permute(0, 3, 1, 2), torch.from_numpy(arrays["labels"])


def to_float(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 pictures as float32 in [-1, 1], laid out as convolutions on a CPU like it."""
    return (pictures.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def train_vae(folder: Path, pictures: torch.Tensor, steps: int, seed: int, batch: int = 32) -> AutoencoderKL:
    """Train the autoencoder by squared error and a little Kullback-Leibler divergence; whiten its latents."""
    torch.manual_seed(seed)
    vae = AutoencoderKL(**VAE).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, weight_decay=0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps, pct_start=0.1)
    bar = tqdm(range(steps), "autoencoder")
    for step in bar:
        generator = step_generator(seed, step)
        images = to_float(pictures[torch.randint(len(pictures), (batch,), generator=generator)])
        latent_dist = vae.encode(images).latent_dist
        decoded = vae.decode(latent_dist.sample(generator)).sample
        error = (decoded - images).square().mean()
        divergence = latent_dist.kl().mean() / latent_dist.mean[0].numel()
        (error + 1e-6 * divergence).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            bar.set_postfix(error=f"{error.item():.4f}")
    vae.requires_grad_(False).eval()
    whiten(vae, to_float(pictures[:1024]))
    vae.save_pretrained(folder)
    return vae


@torch.no_grad()
def whiten(vae: AutoencoderKL, images: torch.Tensor) -> None:
    """Give the latent channels unit covariance, by the two 1x1 convolutions that an `AutoencoderKL` ends and begins with.

    An autoencoder leaves most variance in two channels; the others, which tell the animals apart, would drown in the noise.
    The posterior's deviation becomes one constant per channel.
    """
    latent_dist = vae.encode(images).latent_dist
    latents = latent_dist.mean.movedim(1, -1).flatten(0, 2)  # (N H W, C)
    mean = latents.mean(0)
    variances, axes = torch.linalg.eigh(torch.cov(latents.T))
    to_white, from_white = (axes / variances.sqrt()).T, axes * variances.sqrt()
    noise = to_white.square() @ latent_dist.var.mean((0, 2, 3))  # (C,)

    conv, channels = vae.quant_conv, len(mean)
    weight, bias = conv.weight[:channels, :, 0, 0].clone(), conv.bias[:channels].clone()
    conv.weight.zero_()
    conv.weight[:channels, :, 0, 0] = to_white @ weight
    conv.bias[:channels], conv.bias[channels:] = to_white @ (bias - mean), noise.log()
    conv = vae.post_quant_conv
    weight = conv.weight[:, :, 0, 0].clone()
    conv.weight[:, :, 0, 0] = weight @ from_white
    conv.bias += weight @ mean
    vae.register_to_config(scaling_factor=1.0)


class SingleAnimals(torch.utils.data.Dataset):
    """Latents of the pictures with the encoded prompt of their one animal.

    Args:
        mean, std: posteriors (N, C, H, W). labels: (N,) class numbers. prompts: (classes, L, D).
    """

    def __init__(self, mean: torch.Tensor, std: torch.Tensor, labels: torch.Tensor, prompts: torch.Tensor):
        self.mean, self.std, self.labels, self.prompts = mean, std, labels, prompts

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> dict:
        conds = self.prompts[self.labels[i]][None]  # (1, L, D)
        return {"posterior_mean": self.mean[i], "posterior_std": self.std[i], "conds": conds, "mask": torch.ones(1)}


@torch.no_grad()
def encode_pictures(file: Path, codec: KLCodec, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Posterior mean and deviation (N, C, H, W) of all pictures; kept in `file`."""
    if not file.is_file():
        parts = [codec.posterior(to_float(part)) for part in tqdm(pictures.split(64), "latents")]
        mean, std = (torch.cat(kind).numpy() for kind in zip(*parts, strict=True))
        np.savez(file, mean=mean, std=std)
    with np.load(file) as arrays:
        return torch.from_numpy(arrays["mean"]), torch.from_numpy(arrays["std"])


def encode_prompts(tokenizer: CLIPTokenizer, encoder: CLIPTextModel, prompts: list[str]) -> torch.Tensor:
    """Prompts as tokens (P, L, D)."""
    ids = tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        return encoder(ids).last_hidden_state


def export(folder: Path, tokenizer, encoder, vae, scheduler, network, facts: Facts) -> None:
    """Write the pipeline in float16, as diffusers does, and the facts that inference uses."""
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=network,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):  # transformers 5 writes one file of its own instead
        shutil.copy(Path(tokenizer.name_or_path) / name, folder / "tokenizer" / name)
    tidy_configs(folder)
    (folder / FACTS_FILE).write_text(json.dumps(facts.to_json(), indent=2) + "\n")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{folder}: {size / 2**20:.1f} MiB")


def make_denoiser(vae: AutoencoderKL, seed: int) -> Denoiser:
    """A denoiser whose network has fresh weights."""
    torch.manual_seed(seed)
    return Denoiser(UNet2DConditionModel(**UNET), DDPMScheduler(**SCHEDULER), KLCodec(vae))


def train_settings(options: argparse.Namespace) -> TrainSettings:
    """How the network is trained; a run goes on where it stopped."""
    return TrainSettings(
        max_train_steps=options.max_train_steps,
        train_batch_size=options.train_batch_size,
        learning_rate=options.learning_rate,
        lr_scheduler="cosine",
        lr_warmup_steps=100,
        adam_weight_decay=1e-3,
        use_ema=True,
        ema_decay=0.998,
        t_logit_normal=(-0.3, 0.7),
        seed=options.seed,
        checkpointing_steps=250,
        checkpoints_total_limit=2,
        resume_from_checkpoint="latest",
    )


def main() -> None:
    options = parse_options()
    out, settings = options.output_dir, train_settings(options)
    if options.dry_run:
        fresh, batch = make_denoiser(AutoencoderKL(**VAE), options.seed), options.train_batch_size
        memory = memory_estimate(fresh, batch, batch, state_bytes=settings.state_bytes)
        return describe({**vars(options), **vars(settings)}, {"training": options.num_images}, parts_of(fresh), memory)
    out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    tokenizer = make_tokenizer(out / "tokenizer")
    encoder = make_text_encoder(out / "text_encoder", tokenizer, options.seed)
    pictures, labels = make_pictures(out / "pictures.npz", options.classes, options.num_images, options.seed)
    if (out / "vae" / "config.json").is_file():
        vae = AutoencoderKL.from_pretrained(out / "vae").requires_grad_(False).eval()
    else:
        vae = train_vae(out / "vae", pictures, options.vae_steps, options.seed)
    denoiser = make_denoiser(vae, options.seed)
    mean, std = encode_pictures(out / "latents.npz", denoiser.codec, pictures)
    prompts = encode_prompts(tokenizer, encoder, [PROMPT.format(name) for name in options.classes])
    train(Accelerator(), denoiser, SingleAnimals(mean, std, labels, prompts), out, settings)
    print(f"{(time.perf_counter() - started) / 60:.0f} minutes")
    if options.export_to:
        network = load_network(list_checkpoints(out)[-1])
        facts = Facts(task="classes", classes=options.classes, t_range=T_RANGE)
        export(options.export_to, tokenizer, encoder, vae, denoiser.scheduler, network, facts)


if __name__ == "__main__":
    run(main)
