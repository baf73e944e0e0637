"""Make models/pretrained/animals-mini: a small pipeline in Stable Diffusion's format, trained on pictures of ONE animal.

The parts are made one after the other; each is kept in the run's folder and not made again, and the network's training
goes on from its newest checkpoint. No picture of two animals is ever seen.

Examples:
    python scripts/train_animals_mini.py --export_to outputs/animals-mini-shipped
    python scripts/train_animals_mini.py --classes cat dog rabbit --num_images 4000 --max_train_steps 1000
"""

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image
from tqdm.auto import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from igm.cli.launch import run
from igm.cli.options import Parser, take
from igm.data.synthetic.animals import scenes, sprites
from igm.dry_run import describe, memory_estimate, parts_of
from igm.facts import FACTS_FILE, Facts
from igm.files import replace_file, replace_json, replace_text
from igm.models.checkpoint import load_network
from igm.models.codec import KLCodec, read_codec
from igm.models.denoiser import build_denoiser
from igm.models.unet import read_config
from igm.resources import CONFIGS
from igm.settings import Settings, path, positive, setting
from igm.training.batches import step_generator
from igm.training.checkpoints import find_latest
from igm.training.compositional import CompositionalLearner
from igm.training.export import folder_size, replace_folder, tidy_configs
from igm.training.settings import ModelSettings, ReportSettings, RunSettings, TrainSettings
from igm.training.start import Job, make_accelerator, run_training, way_on, writing

CONFIG = CONFIGS / "animals-mini"
RESOLUTION, DRAWN_AT, MAX_TOKENS = 32, 64, 16
OFTEN = {"cat": 4, "dog": 4, "rabbit": 4}  # drawn so many times as often as the other animals
PROMPT = "a photo of a {}"
WORDS = "a photo of and , . the an picture image drawing two animal animals with background"
TEXT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
T_RANGE = (200, 600)  # where most pairs of a seed that no evaluation uses come out right


@dataclass(frozen=True, kw_only=True)
class AnimalSettings(Settings):
    """Which pictures are drawn, and what else is made of them."""

    classes: tuple[str, ...] = setting(tuple(sprites()), "animals to train on", nargs="+", choices=tuple(sprites()))
    num_images: int = setting(16_000, "training pictures, one animal each", kind=positive)
    vae_steps: int = setting(1200, "steps of the autoencoder, of 32 pictures", kind=positive)
    export_to: str | None = setting(None, "write the finished pipeline there, in float16 (default: not)", kind=path)


def read_settings() -> tuple[AnimalSettings, Job]:
    """The settings of the command line, and of configs/animals-mini/train.yaml or the file that `--config` names."""
    parser = Parser(__doc__ or "")
    groups = (AnimalSettings, TrainSettings, ReportSettings, RunSettings)
    for title, group in zip(("data", "training", "reports", "run"), groups, strict=True):
        parser.add(title, group)
    options = parser.read(["--config", str(CONFIG / "train.yaml"), *sys.argv[1:]])
    animals, training, report, place = (take(options, group) for group in groups)
    model = ModelSettings(
        unet_config=str(CONFIG / "unet"), scheduler_config=str(CONFIG / "scheduler" / "scheduler_config.json")
    )
    resolved = {name: value for part in (animals, training, report, place) for name, value in vars(part).items()}
    return animals, Job(CompositionalLearner, model, training, report, place, resolved)


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
    replace_text(folder / "vocab.json", json.dumps({token: i for i, token in enumerate(vocabulary)}))
    replace_text(folder / "merges.txt", "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n")
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
        save_arrays(file, pictures=pictures, labels=labels)
    with np.load(file) as arrays:
        return torch.from_numpy(arrays["pictures"]).permute(0, 3, 1, 2), torch.from_numpy(arrays["labels"])


def save_arrays(file: Path, **arrays: np.ndarray) -> None:
    """Write a file of arrays whole, or not at all."""
    replace_file(file, lambda temporary: np.savez(temporary, **arrays))


def to_float(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 pictures as float32 in [-1, 1], laid out as convolutions on a CPU like it."""
    return (pictures.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def new_vae() -> AutoencoderKL:
    """The autoencoder with fresh weights."""
    return AutoencoderKL.from_config(read_config(CONFIG / "vae", "configs/animals-mini"))


def make_vae(folder: Path, pictures: torch.Tensor, steps: int, seed: int) -> AutoencoderKL:
    """The trained autoencoder, which is kept in `folder`."""
    if not folder.is_dir():
        vae = train_vae(pictures, steps, seed)
        replace_folder(folder, vae.save_pretrained)
    return read_codec(folder, "--output_dir").vae.requires_grad_(False)


def train_vae(pictures: torch.Tensor, steps: int, seed: int, batch: int = 32) -> AutoencoderKL:
    """Train the autoencoder by squared error and a little Kullback-Leibler divergence; whiten its latents."""
    torch.manual_seed(seed)
    vae = new_vae().to(memory_format=torch.channels_last)
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
        save_arrays(file, mean=mean, std=std)
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
    replace_json(folder / FACTS_FILE, facts.to_json())
    print(f"{folder}: {folder_size(folder) / 2**20:.1f} MiB")


def make_learner(vae: AutoencoderKL, job: Job, facts: Facts) -> CompositionalLearner:
    """A learner whose network has fresh weights."""
    torch.manual_seed(job.training.seed)
    denoiser = build_denoiser(job.model.unet_config, job.model.scheduler_config, KLCodec(vae), facts)
    return CompositionalLearner(denoiser, job.training.snr_gamma)


def main() -> None:
    animals, job = read_settings()
    facts = Facts(task="classes", classes=animals.classes, t_range=T_RANGE)
    if job.run.dry_run:
        fresh, batch = make_learner(new_vae(), job, facts), job.training.train_batch_size
        memory = memory_estimate(fresh, batch, batch, state_bytes=job.training.state_bytes)
        return describe(job.options, {"training": animals.num_images}, parts_of(fresh), memory)
    accelerator, job = make_accelerator(job)
    out, seed = job.run_dir, job.training.seed
    with writing(accelerator, job), way_on(job):
        tokenizer = make_tokenizer(out / "tokenizer")
        encoder = make_text_encoder(out / "text_encoder", tokenizer, seed)
        pictures, labels = make_pictures(out / "pictures.npz", list(animals.classes), animals.num_images, seed)
        vae = make_vae(out / "vae", pictures, animals.vae_steps, seed)
        learner = make_learner(vae, job, facts)
        mean, std = encode_pictures(out / "latents.npz", learner.codec, pictures)
        prompts = encode_prompts(tokenizer, encoder, [PROMPT.format(name) for name in animals.classes])
        dataset = SingleAnimals(mean, std, labels, prompts)
        run_training(accelerator, job, learner, dataset, dataset, {"task": "classes", **learner.identity()})
        if animals.export_to and accelerator.is_main_process:
            network = load_network(find_latest(out))
            export(Path(animals.export_to), tokenizer, encoder, vae, learner.denoiser.scheduler, network, facts)


if __name__ == "__main__":
    run(main)
