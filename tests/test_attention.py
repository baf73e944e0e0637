"""Cross-attention to one token as an addition: the values and gradients of diffusers' own, for less."""

import pytest
import torch
from conftest import UNET
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from igm.models.attention import (
    SingleTokenAttention,
    cross_attention_blocks,
    idle_parameters,
    use_single_token_attention,
)
from igm.models.checkpoint import load_network
from igm.models.unet import build_network

NUM_BLOCKS = 4  # one in the first level down, two in the last level up, one in the middle


def plain_and_single(**config):
    """diffusers' network as it is, and one of the same weights with the processor."""
    torch.manual_seed(0)
    plain = UNet2DConditionModel.from_config({**UNET, **config})
    single = UNet2DConditionModel.from_config({**UNET, **config})
    single.load_state_dict(plain.state_dict())
    use_single_token_attention(single)
    return plain, single


def inputs(tokens=1, cond_size=2):
    generator = torch.Generator().manual_seed(1)
    x_t = torch.randn(3, 4, 8, 8, generator=generator)
    conds = torch.rand(3, tokens, cond_size, generator=generator)
    return x_t.requires_grad_(), torch.tensor([5, 500, 999]), conds.requires_grad_()


def run(network, x_t, t, conds):
    """Prediction, and gradients of its mean square to the inputs and to every parameter (None where there is none)."""
    prediction = network(x_t, t, encoder_hidden_states=conds).sample
    names, parameters = zip(*network.named_parameters(), strict=True)
    gradients = torch.autograd.grad(prediction.square().mean(), [x_t, conds, *parameters], allow_unused=True)
    return prediction.detach(), dict(zip(["x_t", "conds", *names], gradients, strict=True))


@pytest.mark.parametrize("config", [{}, {"attention_head_dim": 4}, {"cross_attention_dim": 6}])
def test_values_and_gradients_are_those_of_attention(config):
    plain, single = plain_and_single(**config)
    plain.eval(), single.eval()
    batch = inputs(cond_size=config.get("cross_attention_dim", 2))
    expected, gradients = run(plain, *batch)
    found, own = run(single, *batch)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    idle = {id(parameter) for parameter in idle_parameters(single)}
    assert len(idle) == 4 * NUM_BLOCKS  # norm2's weight and bias, to_q, to_k
    for name, parameter in {"x_t": None, "conds": None, **dict(single.named_parameters())}.items():
        if id(parameter) in idle:
            assert own[name] is None and gradients[name].abs().max() < 1e-7, name
        else:
            torch.testing.assert_close(own[name], gradients[name], rtol=1e-5, atol=1e-5, msg=name)
    assert own["conds"].abs().max() > 1e-6


def test_it_is_what_the_denoiser_uses(make_denoiser):
    denoiser = make_denoiser("unet")
    x_t, t, conds = inputs()
    blocks = list(cross_attention_blocks(denoiser.network))
    assert len(blocks) == NUM_BLOCKS
    assert all(isinstance(block.attn2.processor, SingleTokenAttention) for block in blocks)
    assert not any(isinstance(block.attn1.processor, SingleTokenAttention) for block in blocks)
    plain = build_network(UNET)
    plain.load_state_dict(denoiser.network.state_dict())
    with FlopCounterMode(display=False) as few:
        found = denoiser.predict(x_t, t, conds)[:, 0]  # (B, C, H, W)
    with FlopCounterMode(display=False) as many:
        expected = plain(x_t, t, encoder_hidden_states=conds).sample
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert few.get_total_flops() < many.get_total_flops()


def test_several_tokens_are_attended_to():
    plain, single = plain_and_single()
    batch = inputs(tokens=5)
    expected, gradients = run(plain, *batch)
    found, own = run(single, *batch)
    assert torch.equal(found, expected)
    assert all(torch.equal(own[name], gradients[name]) for name in gradients)


def test_masked_token_goes_to_the_attention_that_was_there():
    plain, single = plain_and_single()
    x_t, t, conds = inputs()
    mask = torch.ones(3, 1)
    expected = plain(x_t, t, encoder_hidden_states=conds, encoder_attention_mask=mask).sample
    assert torch.equal(single(x_t, t, encoder_hidden_states=conds, encoder_attention_mask=mask).sample, expected)


def test_checkpoints_are_unchanged(tmp_path):
    plain, single = plain_and_single()
    assert list(plain.state_dict()) == list(single.state_dict())
    single.save_pretrained(tmp_path / "unet2dconditionmodel")
    loaded = load_network(tmp_path)
    assert all(loaded.config[name] == value for name, value in plain.config.items() if not name.startswith("_"))
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in loaded.state_dict().items())
    batch = inputs()
    torch.testing.assert_close(run(loaded, *batch)[0], run(single, *batch)[0], rtol=1e-5, atol=1e-5)
