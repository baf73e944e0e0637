"""A pretrained text-to-image pipeline (Stable Diffusion 1.x or 2.x) as a Denoiser; a concept is a prompt."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from igm.facts import Facts
from igm.hub import INDEX_FILE, PARTS, find_repository, local_path
from igm.hub import is_within_reach as is_within_reach  # once defined here
from igm.models import ModelError
from igm.models.codec import KLCodec, read_codec
from igm.models.configs import check_schedule, one_line, read_config, shown
from igm.models.denoiser import Denoiser
from igm.models.unet import read_network
from igm.models.weights import bounded, check_finite, find_weights, read_shapes

# Of what class each part must be; the scheduler may be of several.
CLASSES = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
}
ROWS_OF_PIXELS = 2**16  # latent pixels that fit into the network at once: 16 rows of 64x64


class StableDiffusion(Denoiser):
    """Predicts the noise (or v) of an image under one prompt.

    Conditions are encoded prompts (L, D), or several of them (T, L, D) whose predictions are averaged.

    Args:
        pipeline: the loaded pipeline; its VAE becomes the codec, its scheduler says what is predicted.
        facts: what is known of the pipeline.

    Raises:
        ModelError: the scheduler predicts something else than epsilon or v.
    """

    def __init__(self, pipeline: "diffusers.StableDiffusionPipeline", facts: Facts | None = None):
        scheduler = pipeline.scheduler
        if not hasattr(scheduler, "alphas_cumprod"):
            raise ModelError(f"scheduler {type(scheduler).__name__} has no alphas_cumprod; use a DDPM or DDIM schedule")
        super().__init__(pipeline.unet, scheduler, KLCodec(pipeline.vae), facts)
        self.pipeline = [pipeline]  # in a list: its parts are no second copy of this module's

    @property
    def rows_at_once(self) -> int:
        """How many rows the network takes at once without needing much memory."""
        _, height, width = self.latent_shape
        return max(1, ROWS_OF_PIXELS // (height * width))

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> torch.Tensor:
        """Prompts as tokens (P, L, D), on the text encoder's device.

        Raises:
            ModelError: a prompt is longer than the text encoder reads.
        """
        tokenizer, encoder = self.pipeline[0].tokenizer, self.pipeline[0].text_encoder
        for prompt, ids in zip(prompts, tokenizer(prompts).input_ids, strict=True):
            if len(ids) > tokenizer.model_max_length:
                most = tokenizer.model_max_length
                raise ModelError(f"prompt '{prompt}' has {len(ids)} tokens, the model reads {most}; shorten --prompt")
        tokens = tokenizer(prompts, padding="max_length", return_tensors="pt")
        masked = getattr(encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask.to(self.device) if masked else None
        return encoder(tokens.input_ids.to(self.device), attention_mask=mask)[0]  # (P, L, D)

    def _try_out(self, gradient: bool, side: int | None = None) -> tuple[torch.Tensor, ...]:
        """As `Denoiser._try_out`, for two prompts."""
        x_t = torch.ones(2, self.latent_shape[0], *[side or self.latent_shape[1]] * 2, device=self.device)
        prompts, t = self.encode_prompts(["a", "b"]).requires_grad_(gradient), torch.tensor([250, 500]).to(self.device)
        return (self.predict_pairs(x_t, t, prompts, torch.arange(2, device=self.device)),)

    def predict_pairs(
        self, x_t: torch.Tensor, t: torch.Tensor, conds: torch.Tensor, index: torch.Tensor
    ) -> torch.Tensor:
        """As `Denoiser.predict_pairs`; conds (P, L, D), or (P, T, L, D) for the mean prediction of T prompts."""
        if conds.ndim == 4:
            predictions = [self.predict_pairs(x_t, t, own, index) for own in conds.unbind(1)]
            return torch.stack(predictions).mean(0)  # (P, C, H, W)
        dtype = self.network.dtype
        return self.network(x_t[index].to(dtype), t[index], encoder_hidden_states=conds.to(dtype)).sample.float()

    @classmethod
    def from_pretrained(  # type: ignore[override]  # a pipeline is loaded from other parts than a denoiser
        cls,
        name: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        slicing: bool = False,
        cpu_offload: bool = False,
        local_files_only: bool = False,
        revision: str | None = None,
    ) -> "StableDiffusion":
        """Load a pipeline: a folder in diffusers' format, a hub id, or a single .safetensors file.

        Args:
            dtype: of all weights. slicing: compute attention and VAE in parts: less memory, more time.
            cpu_offload: keep each part on the GPU only while it works.
            revision: branch, tag or commit of a repository of the hub.

        Raises:
            ModelError: not a pipeline, not reachable, or not usable as asked; one line with the mend.
        """
        name = local_path(name) or name
        check_request(name, dtype, torch.device(device), cpu_offload)
        with quiet():
            pipeline = load_pipeline(name, dtype, local_files_only, revision)
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            part.eval().requires_grad_(False)
        denoiser = cls(pipeline, Facts.read(name))
        if slicing:  # after the Denoiser has set its own attention, which it replaces
            pipeline.enable_attention_slicing()
            pipeline.vae.enable_slicing()
        denoiser.place(torch.device(device), cpu_offload)
        denoiser.check_runs(f"--checkpoint {name}")
        return denoiser

    def place(self, device: torch.device, cpu_offload: bool) -> "StableDiffusion":
        """Move everything to a device, or with `cpu_offload` let each part go there when it works."""
        if cpu_offload:
            self.pipeline[0].enable_model_cpu_offload(device=device)
            self.alphas_cumprod = self.alphas_cumprod.to(device)
        else:
            self.to(device)
            self.pipeline[0].text_encoder.to(device)
        return self


def check_request(name: str | Path, dtype: torch.dtype, device: torch.device, cpu_offload: bool) -> None:
    """Find the mistakes that show before anything is loaded.

    Raises:
        ModelError: in one line, with the mend.
    """
    if device.type == "cpu" and dtype == torch.float16:
        raise ModelError("fp16 weights do not compute on a CPU; use --mixed_precision bf16 or no")
    if device.type == "cpu" and cpu_offload:
        raise ModelError("--cpu_offload moves weights between GPU and CPU, and there is no GPU; leave it out")
    path = Path(name)
    if path.is_file() and path.suffix != ".safetensors":
        raise ModelError(f"--checkpoint {name} is not a .safetensors file; name one, a pipeline's folder or a hub id")
    if path.is_dir():
        check_index(path, {p.name for p in path.iterdir() if p.is_dir()}, name)
    elif not path.exists() and str(name).count("/") != 1:
        raise ModelError(f"--checkpoint {name} does not exist; name a pipeline's folder, a file or a hub id")


def check_index(folder: Path, there: set[str], name: str | Path) -> None:
    """Read in model_index.json of what parts a pipeline is made; none that is code of its own is ever run.

    Args:
        there: names of the folders that it has. name: as the user gave it, for messages.

    Raises:
        ModelError: it is no Stable Diffusion 1.x or 2.x; one line with what it is, and the mend.
    """
    needed, index = "a Stable Diffusion 1.x or 2.x is needed", folder / INDEX_FILE
    parts = read_config(index, "file") if index.is_file() else {}
    kind = parts.get("_class_name")
    if parts and not isinstance(kind, str):
        raise ModelError(f"--checkpoint {name} is a pipeline of its own code, which is never run; {needed}")
    if "Inpaint" in str(kind):
        raise ModelError(f"--checkpoint {name} is a {shown(kind)}, which fills holes in pictures; {needed}")
    other = [part for part in parts if part in ("transformer", "text_encoder_2", "text_encoder_3", "prior", "vqvae")]
    if other or "XL" in str(kind):
        raise ModelError(f"--checkpoint {name} is a {shown(kind)}{' with ' + other[0] if other else ''}; {needed}")
    missing = [part for part in PARTS if part not in parts or part not in there]
    if missing:
        raise ModelError(
            f"--checkpoint {name} is not a Stable Diffusion pipeline (it lacks {', '.join(missing)}); "
            "name a folder with model_index.json and its parts"
        )
    if not isinstance(parts["scheduler"], list):
        raise ModelError(f"--checkpoint {name}: its scheduler is a {shown(parts['scheduler'])}; {needed}")
    for part, kinds in CLASSES.items():
        if not (isinstance(parts[part], list) and len(parts[part]) == 2 and parts[part][1] in kinds):
            raise ModelError(f"--checkpoint {name}: its {part} is a {shown(parts[part])}, not a {kinds[0]}; {needed}")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' notes on loading (versions, missing image processors, progress) off the screen."""
    kinds = [diffusers.utils.logging, transformers.utils.logging]
    before = [kind.get_verbosity() for kind in kinds]
    for kind in kinds:
        kind.set_verbosity_error()
        kind.disable_progress_bar()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for kind, verbosity in zip(kinds, before, strict=True):
            kind.set_verbosity(verbosity)


def load_pipeline(
    name: str | Path, dtype: torch.dtype, local_files_only: bool, revision: str | None = None
) -> "diffusers.StableDiffusionPipeline":
    """The pipeline, its safety checker left out.

    Raises:
        ModelError: it cannot be loaded; the message says why and what to do.
    """
    if Path(name).is_file():
        return load_single_file(name, dtype, local_files_only)
    folder = Path(name)
    if not folder.is_dir():
        repository = find_repository(str(name), revision, local_files_only, "--checkpoint")
        there = {file.partition("/")[0] for file in repository.files}
        check_index(repository.fetch((".",), "--checkpoint"), there, name)  # before gigabytes are fetched
        folder = repository.fetch((".", *PARTS), "--checkpoint")
    what = "--checkpoint"
    unet = read_network(folder / "unet", what)
    if unet.config.in_channels != (vae := read_vae(folder / "vae", what)).config.latent_channels:
        raise ModelError(f"{what} {name} is no plain text-to-image pipeline (inpainting? depth?); name another")
    parts = {"unet": unet, "vae": vae, "text_encoder": load_text_encoder(folder / "text_encoder", what)}
    return diffusers.StableDiffusionPipeline(
        **{part: model.to(dtype) for part, model in parts.items()},
        tokenizer=load_tokenizer(folder / "tokenizer", what),
        scheduler=load_sampler(folder, what),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def load_single_file(
    name: str | Path, dtype: torch.dtype, local_files_only: bool
) -> "diffusers.StableDiffusionPipeline":
    """The pipeline in one .safetensors file; diffusers knows its parts by their tensors' names.

    Raises:
        ModelError: it is not one, or lacks a tensor.
    """
    options = {"torch_dtype": dtype, "local_files_only": local_files_only, "safety_checker": None}
    try:
        pipeline = diffusers.StableDiffusionPipeline.from_single_file(str(name), **options)
    except Exception as error:  # diffusers, hub and network libraries raise many kinds
        cause = one_line(error)[:200]
        raise ModelError(
            f"--checkpoint {name} cannot be loaded ({cause}); name another, or download it again"
        ) from None
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        tensors = dict(part.named_parameters())
        empty = [own for own, tensor in tensors.items() if tensor.is_meta]
        if empty:
            raise ModelError(f"--checkpoint {name} lacks the tensor {empty[0]}; download it again")
        check_finite(tensors, f"--checkpoint {name}")
    return pipeline


def read_vae(folder: Path, what: str) -> AutoencoderKL:
    """The VAE of a pipeline."""
    codec = read_codec(folder, what)
    if not isinstance(codec, KLCodec):
        raise ModelError(f"{what} {folder} is not the VAE of a Stable Diffusion; name another")
    return codec.vae


def load_text_encoder(folder: Path, what: str) -> CLIPTextModel:
    """CLIP's text encoder from its own format, strictly.

    Raises:
        ModelError: a tensor is missing, of another shape, or no number.
    """
    files = find_weights(folder, what, "model")
    shapes, variant = read_shapes(files, what), "fp16" if ".fp16" in files[0].name else None
    config = read_config(folder, what)
    try:
        with torch.device("meta"), bounded(len(shapes) + 8):  # position_ids and the like
            CLIPTextModel(CLIPTextConfig.from_dict(config))
        options = {"use_safetensors": True, "variant": variant, "local_files_only": True, "dtype": torch.float32}
        model, report = CLIPTextModel.from_pretrained(folder, output_loading_info=True, **options)
    except Exception as error:  # transformers raises many kinds
        raise ModelError(f"{what} {folder} cannot be loaded ({one_line(error)[:200]}); copy it again") from None
    if report["missing_keys"]:
        raise ModelError(f"{what} {files[0]} lacks the tensor {sorted(report['missing_keys'])[0]}; copy it again")
    check_finite(dict(model.named_parameters()), f"{what} {files[0]}")
    return model


def load_tokenizer(folder: Path, what: str) -> CLIPTokenizer:
    """CLIP's tokenizer.

    Raises:
        ModelError: a file of it is missing or not readable.
    """
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises many kinds
        raise ModelError(f"{what} {folder} is no CLIP tokenizer ({one_line(error)[:200]}); copy it again") from None


def load_sampler(folder: Path, what: str) -> diffusers.SchedulerMixin:
    """A pipeline's scheduler, of which the noise schedule and the kind of prediction are used.

    Raises:
        ModelError: not one of diffusers' schedulers, or of impossible values.
    """
    path = folder / "scheduler" / "scheduler_config.json"
    config = read_config(path, what)
    check_schedule(config, f"{what} {path}")
    library, kind = (*read_config(folder / INDEX_FILE, what)["scheduler"], None, None)[:2]
    found = getattr(diffusers, kind, None) if library == "diffusers" and isinstance(kind, str) else None
    if not (isinstance(found, type) and issubclass(found, diffusers.SchedulerMixin)):
        raise ModelError(
            f"{what} {folder / INDEX_FILE}: its scheduler is a {shown(kind)}, which diffusers does not have; "
            "a Stable Diffusion 1.x or 2.x is needed"
        )
    try:
        sampler: Any = found.from_config(config)  # type: ignore[attr-defined]  # of any scheduler's class
        sampler.alphas_cumprod.shape  # noqa: B018 (those of Stable Diffusion 3 and Flux have none)
        return sampler
    except AttributeError:
        raise ModelError(
            f"{what} {path} is of a {kind}, which has no alphas_cumprod; a Stable Diffusion 1.x or 2.x is needed"
        ) from None
    except Exception as error:  # diffusers raises many kinds for values that do not fit each other
        raise ModelError(f"{what} {path} is not usable ({one_line(error)[:200]}); take the pipeline's own") from None
