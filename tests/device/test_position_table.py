"""Stable Diffusion 3's table of position embeddings on a device: its crop is sent once, and the table never."""

import pytest
import torch

from experiments.random_base import random_base
from pretend import DEVICE, Looks
from quantbooth.diffusion.conditioning import Conditioning

pytestmark = pytest.mark.device

OWN = "families/position_table.py"


def test_the_crop_is_sent_once_and_the_table_never(looks: Looks) -> None:
    base, t, draw = random_base("tiny-sd3"), torch.tensor([3, 900]), torch.Generator().manual_seed(0)
    noise, tokens, pooled = (torch.randn(2, *shape, generator=draw) for shape in ((16, 8, 8), (7, 56), (32,)))
    words, state = Conditioning(tokens, {"pooled": pooled}), dict(base.denoiser.state_dict())
    sent: list[int] = []
    with torch.no_grad():
        wanted = base.predict(noise, t, words)
        for _ in range(2):  # moved twice
            base.denoiser.to(DEVICE)
            for _ in range(2):
                before = Looks(looks)
                found = base.predict(noise.to(DEVICE), t.to(DEVICE), words.to(torch.device(DEVICE)))
                sent.append(sum(count for (_, line), count in looks.since(before).items() if OWN in line))
                torch.testing.assert_close(found.cpu(), wanted, rtol=0, atol=1e-6)
            on_device = base.denoiser.state_dict()
            assert {name for name, one in on_device.items() if one.device.type == "cpu"} == {"pos_embed.pos_embed"}
            base.denoiser.to("cpu")
    assert sent == [1, 0, 1, 0]
    assert [*on_device] == [*state]
    assert all(torch.equal(one, state[name]) for name, one in base.denoiser.state_dict().items())
