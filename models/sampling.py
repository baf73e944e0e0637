"""Sampling images from a composition of concepts."""

from collections.abc import Callable

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline, DPMSolverMultistepScheduler
from diffusers.utils.torch_utils import randn_tensor

from igm.models.denoiser import Denoiser

SCHEDULERS = {cls.__name__: cls for cls in (DPMSolverMultistepScheduler, DDPMScheduler, DDIMScheduler)}


class CompositionPipeline(DiffusionPipeline):
    """Generates the image of several concepts: each denoising step uses the mean of their predictions.

    Args:
        denoiser: network, schedule and codec.
        scheduler: name of the sampler, a key of `SCHEDULERS`; its noise schedule is the denoiser's.
    """

    def __init__(self, denoiser: Denoiser, scheduler: str = "DPMSolverMultistepScheduler"):
        super().__init__()
        self.register_modules(scheduler=SCHEDULERS[scheduler].from_config(denoiser.scheduler.config))
        self.denoiser = denoiser

    @torch.no_grad()
    def __call__(
        self,
        predict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        num_images: int,
        *,
        num_inference_steps: int = 50,
        generator: torch.Generator | list[torch.Generator] | None = None,
        start: torch.Tensor | None = None,
        strength: float = 1.0,
    ) -> torch.Tensor:
        """Sample images.

        Args:
            predict: (x_t (B, C, H, W), t (B,)) -> composed prediction (B, C, H, W); see `igm.composition.predictor`.
            num_images: B.
            generator: CPU generator of the starting noise (and of the sampler's, where it has any), or one for each image.
            start: clean latents (B, C, H, W) to begin with, noised to the last `strength` in (0, 1] of the steps, which
                alone are taken (SDEdit, Meng et al. 2022); None: pure noise, and all steps.

        Returns:
            images (B, 3, R, R), about [-1, 1].
        """
        device = self.denoiser.device
        noise = randn_tensor((num_images, *self.denoiser.latent_shape), generator).to(device)
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        timesteps, x_t = self.scheduler.timesteps, noise * self.scheduler.init_noise_sigma
        if start is not None:
            timesteps = timesteps[-max(1, round(strength * len(timesteps))) :]
            x_t = self.denoiser.add_noise(start, noise, timesteps[:1].expand(num_images))
        options = {} if isinstance(self.scheduler, DPMSolverMultistepScheduler) else {"generator": generator}
        for t in self.progress_bar(timesteps):
            composed = predict(self.scheduler.scale_model_input(x_t, t), t.expand(num_images))
            x_t = self.scheduler.step(composed, t, x_t, **options).prev_sample  # (B, C, H, W)
        return self.denoiser.decode(x_t)
