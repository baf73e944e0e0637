"""torch.compile is used only where it gives the eager numbers.

On some machines it compiles without complaint and is wrong: PyTorch 2.13 on a CPU gives other gradients behind a UNet's
upsampling than eager PyTorch does. One batch through both tells.
"""

from collections.abc import Callable, Iterable

import torch

TOLERANCE = 0.05  # relative, of all numbers together: above half precision's rounding, far below a wrong gradient


def compiled_agrees(evaluate: Callable[[], Iterable[torch.Tensor]]) -> bool:
    """Whether compiled code and eager PyTorch give the same numbers.

    Args:
        evaluate: calls the compiled network; what it returns, predictions or gradients, is compared as one vector.
    """
    compiled = torch.cat([value.detach().float().flatten() for value in evaluate()])
    with torch.compiler.set_stance("force_eager"):
        eager = torch.cat([value.detach().float().flatten() for value in evaluate()])
    return bool((compiled - eager).norm() <= TOLERANCE * eager.norm())
