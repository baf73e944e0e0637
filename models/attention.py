"""Cross-attention to ONE condition token is an addition: the softmax over a single key is 1, whatever the query.

So attn2(x, c) = to_out(to_v(c)) at every position; queries, keys, scores and the norm before them have no effect, and a
gradient of zero. Weights and checkpoints are untouched: only the computation is left out.
"""

from collections.abc import Iterator

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from torch import nn


class SingleTokenAttention:
    """Attention processor that yields to_out(to_v(c)); several tokens, or a mask, go to the processor it replaces.

    Args:
        several: the attention processor for conditions of more than one token.
    """

    def __init__(self, several):
        self.several = several

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """hidden_states (P, H W, F), encoder_hidden_states (P, 1, D) -> (P, 1, F), which the block adds everywhere."""
        if encoder_hidden_states is None or encoder_hidden_states.shape[1] != 1 or attention_mask is not None:
            return self.several(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        # to_out[1] is a dropout, always of 0 in these networks.
        return attn.to_out[0](attn.to_v(encoder_hidden_states))  # (P, 1, F)


def use_single_token_attention(network: nn.Module) -> None:
    """Give every cross-attention of a network the processor above, around the one that it has."""
    for block in cross_attention_blocks(network):
        if not isinstance(block.attn2.processor, SingleTokenAttention):
            block.attn2.set_processor(SingleTokenAttention(block.attn2.processor))


def idle_parameters(network: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters without effect while every condition is one token: queries, keys and the norm before them."""
    for block in cross_attention_blocks(network):
        for module in (block.norm2, block.attn2.to_q, block.attn2.to_k):
            yield from module.parameters()


def cross_attention_blocks(network: nn.Module) -> Iterator[BasicTransformerBlock]:
    """Transformer blocks whose second attention is to the condition."""
    for module in network.modules():
        if isinstance(module, BasicTransformerBlock) and module.attn2 is not None and module.attn2.is_cross_attention:
            yield module
