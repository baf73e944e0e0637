"""What the benchmarks share: waiting for the device, its memory, and the attention of the published network."""

import resource

import torch
from diffusers.models.attention_processor import AttnProcessor2_0

from igm.models.attention import cross_attention_blocks


def synchronize(device: torch.device) -> None:
    """Wait for the GPU, so that the clock is right."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_memory(device: torch.device) -> float:
    """Most memory so far in MiB: the GPU's, or the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def use_plain_attention(network: torch.nn.Module) -> None:
    """Give a network back the cross-attention that the published one has."""
    for block in cross_attention_blocks(network):
        block.attn2.set_processor(AttnProcessor2_0())
