"""A pretrained text-to-image pipeline (Stable Diffusion 1.x or 2.x) as a Denoiser; a concept is a prompt."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import diffusers
import torch
import transformers

from igm.facts import Facts
from igm.models import ModelError
from igm.models.codec import DEFAULT_MODEL, KLCodec
from igm.models.denoiser import Denoiser
from igm.models.unet import one_line, read_config

PARTS = ("tokenizer", "text_encoder", "vae", "unet", "scheduler")
HUB_SECONDS = 5  # how long to wait for the hub's answer
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
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        slicing: bool = False,
        cpu_offload: bool = False,
        local_files_only: bool = False,
    ) -> "StableDiffusion":
        """Load a pipeline: a folder in diffusers' format, a hub id, or a single .safetensors file.

        Args:
            dtype: of all weights. slicing: compute attention and VAE in parts: less memory, more time.
            cpu_offload: keep each part on the GPU only while it works.

        Raises:
            ModelError: not a pipeline, not reachable, or not usable as asked; one line with the mend.
        """
        check_request(name, dtype, torch.device(device), cpu_offload)
        with quiet():
            pipeline = load_pipeline(name, dtype, local_files_only)
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            part.eval().requires_grad_(False)
        denoiser = cls(pipeline, Facts.read(name))
        if slicing:  # after the Denoiser has set its own attention, which it replaces
            pipeline.enable_attention_slicing()
            pipeline.vae.enable_slicing()
        return denoiser.place(torch.device(device), cpu_offload)

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
        index = path / "model_index.json"
        parts = read_config(index, "file") if index.is_file() else {}
        missing = [part for part in PARTS if part not in parts or not (path / part).is_dir()]
        if missing:
            raise ModelError(
                f"--checkpoint {name} is not a Stable Diffusion pipeline (it lacks {', '.join(missing)}); "
                "name a folder with model_index.json and its parts"
            )
    elif not path.exists() and str(name).count("/") != 1:
        raise ModelError(f"--checkpoint {name} does not exist; name a pipeline's folder, a file or a hub id")


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


def load_pipeline(name: str | Path, dtype: torch.dtype, local_files_only: bool) -> "diffusers.StableDiffusionPipeline":
    """The pipeline, its safety checker left out.

    Raises:
        ModelError: it cannot be loaded; the message says why and what to do.
    """
    options = {"torch_dtype": dtype, "local_files_only": local_files_only, "safety_checker": None}
    try:
        if Path(name).is_file():
            pipeline = diffusers.StableDiffusionPipeline.from_single_file(str(name), **options)
        else:
            pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
                str(name), use_safetensors=True, feature_extractor=None, requires_safety_checker=False, **options
            )
    except Exception as error:  # diffusers, hub and network libraries raise many kinds
        raise ModelError(f"--checkpoint {name} {why_not(name, error, local_files_only)}") from None
    if pipeline.unet.config.in_channels != pipeline.vae.config.latent_channels:
        raise ModelError(f"--checkpoint {name} is no plain text-to-image pipeline (inpainting? depth?); name another")
    return pipeline


def why_not(name: str | Path, error: Exception, local_files_only: bool) -> str:
    """What went wrong with a pipeline, and the mend, in words."""
    if Path(name).exists():
        return f"cannot be loaded ({one_line(error)}); name another, or download it again"
    kinds = " ".join(kind.__name__ for kind in (*type(error).__mro__, *type(error.__cause__).__mro__)) + str(error)
    if "GatedRepo" in kinds:
        return "is gated; accept its conditions on its page and log in (hf auth login), or name another"
    if "RepositoryNotFound" in kinds or "401" in kinds or "404" in kinds:
        return f"does not exist on the hub, or is private; the default is {DEFAULT_MODEL}"
    if local_files_only:
        return "is not in the local cache; leave out --local_files_only, or name a pipeline's folder"
    return (
        f"could not be fetched from the hub ({one_line(error)[:200]}); check the network, or name a pipeline's folder"
    )


def is_within_reach(name: str, local_files_only: bool) -> bool:
    """Whether a hub repository is in the local cache, or the hub answers for it within a few seconds."""
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(name, "unet/diffusion_pytorch_model.safetensors"), str):
        return True
    if local_files_only or constants.HF_HUB_OFFLINE:
        return False
    try:
        HfApi().model_info(name, timeout=HUB_SECONDS)
    except Exception:  # no network, no repository, no access: all mean the same here
        return False
    return True
