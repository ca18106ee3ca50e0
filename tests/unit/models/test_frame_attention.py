"""Attention stays within a frame, whatever the other frames hold, and there is as much of it as was asked for."""

from __future__ import annotations

import pytest
import torch

from ssvae.models.attention import FrameAttention
from ssvae.models.vae import VideoVAE


@pytest.fixture
def attention() -> FrameAttention:
    torch.manual_seed(0)
    block = FrameAttention(8).double()
    # Its output starts at zero: let it say something.
    torch.nn.init.normal_(block.proj.weight)
    return block


def frames(count: int) -> torch.Tensor:
    return torch.randn((1, 8, count, 4, 4), generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_a_frame_is_the_same_alone_and_among_others(attention: FrameAttention) -> None:
    """Not causal attention over the clip: neither earlier nor later frames are seen."""
    clip = frames(5)
    whole = attention(clip)
    alone = torch.cat([attention(clip[:, :, t : t + 1]) for t in range(5)], dim=2)
    assert torch.allclose(whole, alone, rtol=1e-12, atol=1e-12)


def test_within_a_frame_every_pixel_sees_every_other(attention: FrameAttention) -> None:
    """In both directions of the scan: no order among pixels either."""
    picture = frames(1).requires_grad_()
    for row, column in ((0, 0), (3, 3)):
        (gradient,) = torch.autograd.grad(attention(picture)[0, :, 0, row, column].sum(), picture)
        assert bool((gradient[0, :, 0].abs().sum(0) > 0).all())


@pytest.mark.parametrize(("encoder", "decoder"), [([], []), ([True, True], [True, False]), ([False], [True])])
def test_there_are_as_many_blocks_as_asked_for(encoder: list[bool], decoder: list[bool]) -> None:
    """None at all where none is asked for; two and one are the released weights' own numbers."""
    with torch.device("meta"):
        vae = VideoVAE(
            channels=4, base_channels=4, multipliers=[1, 2], encoder_blocks=1, decoder_blocks=1,
            temporal_levels=[True], encoder_mid_attention=encoder or [False], decoder_mid_attention=decoder or [False],
        )  # fmt: skip
    counts = [sum(isinstance(part, FrameAttention) for part in half.modules()) for half in (vae.encoder, vae.decoder)]
    assert counts == [sum(encoder), sum(decoder)]


def test_large_frames_take_the_fused_way_to_the_same_numbers(
    attention: FrameAttention, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = torch.randn((2, 8, 2, 6, 5), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    plain = attention(clip)
    axes: list[int] = []
    real = torch.nn.functional.scaled_dot_product_attention

    def noted(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        axes.append(query.dim())
        return real(query, key, value)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    monkeypatch.setattr("ssvae.models.attention.FUSED_ABOVE", 29)
    assert torch.allclose(attention(clip), plain, rtol=1e-12, atol=1e-12)
    assert axes == [4], "30 tokens a frame"
