"""Sampling images from a composition of concepts."""

from collections.abc import Callable

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline, DPMSolverMultistepScheduler

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
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Sample images.

        Args:
            predict: (x_t (B, C, H, W), t (B,)) -> composed prediction (B, C, H, W); see `igm.composition.predictor`.
            num_images: B.
            generator: CPU generator of the starting noise (and of the sampler's, where it has any).

        Returns:
            images (B, 3, R, R), about [-1, 1].
        """
        device = self.denoiser.device
        x_t = torch.randn(num_images, *self.denoiser.latent_shape, generator=generator).to(device)
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        x_t = x_t * self.scheduler.init_noise_sigma
        options = {} if isinstance(self.scheduler, DPMSolverMultistepScheduler) else {"generator": generator}
        for t in self.progress_bar(self.scheduler.timesteps):
            composed = predict(self.scheduler.scale_model_input(x_t, t), t.expand(num_images))
            x_t = self.scheduler.step(composed, t, x_t, **options).prev_sample  # (B, C, H, W)
        return self.denoiser.decode(x_t)
