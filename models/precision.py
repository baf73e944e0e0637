"""The precision of a network's arithmetic."""

import contextlib

import torch


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Half precision for what a network computes inside, where `precision` is fp16 or bf16; "no" changes nothing."""
    if precision == "no":
        return contextlib.nullcontext()
    return torch.autocast(device.type, {"fp16": torch.float16, "bf16": torch.bfloat16}[precision])
