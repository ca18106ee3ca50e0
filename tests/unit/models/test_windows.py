"""Clips of any size and length through VAEs that cannot stream: cut, filled up, computed apart, cut back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from published_vaes import clip, make
from ssvae.models.windows import LONGEST, default_window, reconstruct_windows
from ssvae.models.zoo import PublishedVAE
from ssvae.models.zoo_rules import SUPPORTED, layout


def published(name: str) -> PublishedVAE:
    network = make(name)
    return PublishedVAE(network, layout({"_class_name": type(network).__name__, **network.config}))


def joined(vae: PublishedVAE, pieces: tuple[Tensor, ...], window: int) -> tuple[Tensor, Tensor, list[int]]:
    pairs = list(reconstruct_windows(vae, pieces, window))
    assert all(video.shape == recon.shape for video, recon in pairs)
    lengths = [video.shape[2] for video, _ in pairs]
    return torch.cat([video for video, _ in pairs], 2), torch.cat([recon for _, recon in pairs], 2), lengths


@pytest.mark.parametrize(("name", "window", "filled"), [("wan22", 5, 5), ("cogvideox", 9, 9), ("flux", 3, 2)])
@torch.no_grad()
def test_windows_are_clips_of_their_own(name: str, window: int, filled: int) -> None:
    """filled: frames of the last window, of 2, after filling up."""
    vae, frames = published(name), 2 * window + 2
    video = clip(frames, size=37)
    time = torch.arange(filled).clamp_max(1)
    side = -(-37 // vae.spatial_ratio) * vae.spatial_ratio
    space = torch.arange(side).clamp_max(36)
    expected = []
    for begin in (0, window, 2 * window):
        part = video[:, :, begin : begin + window]
        part = part[:, :, time] if begin == 2 * window else part
        frames_left = min(window, frames - begin)
        recon = vae.decode(vae.encode(part[..., space, :][..., space]).mean)
        expected.append(recon[:, :, :frames_left, :37, :37])
    for length in (1, 4, frames):
        seen, found, lengths = joined(vae, video.split(length, dim=2), window)
        assert torch.equal(seen, video)
        assert lengths == [window, window, 2]
        assert torch.equal(found, torch.cat(expected, 2)), f"pieces of {length}"


@torch.no_grad()
def test_an_image_vae_gives_the_same_in_any_windows() -> None:
    vae, video = published("flux"), clip(7, size=16)
    whole = joined(vae, (video,), 7)[1]
    torch.testing.assert_close(joined(vae, (video,), 2)[1], whole, atol=1e-5, rtol=0)


def test_videos_stay_as_they_came_when_the_vae_is_in_half_precision() -> None:
    vae, video = published("wan22").to(torch.bfloat16), clip(5, size=32)
    seen, found, _ = joined(vae, (video,), 5)
    assert torch.equal(seen, video)
    assert found.dtype == torch.bfloat16 and not found.requires_grad


def test_a_window_that_does_not_fit_and_no_pieces() -> None:
    vae = published("wan22")
    with pytest.raises(ValueError, match=r"takes 1 \+ 4k frames .*, not 6"):
        list(reconstruct_windows(vae, (clip(9),), 6))
    assert list(reconstruct_windows(vae, (), 5)) == []


def test_default_windows() -> None:
    wan, cogvideox = published("wan22"), published("cogvideox")
    assert [default_window(wan, frames) for frames in (1, 2, 5, 46, 49, 1000)] == [1, 5, 5, 49, 49, 49]
    assert [default_window(cogvideox, frames) for frames in (1, 2, 10, 1000)] == [1, 9, 17, 49]
    for name in SUPPORTED:
        assert layout({"_class_name": name}).latent_grid(LONGEST, 64, 64)
