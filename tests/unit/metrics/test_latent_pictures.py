"""PCA-RGB with planted modes; enlargement of causal latents; frames for a figure."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssvae.metrics.pictures import LatentPainter, channel_modes, enlarge, frames_row
from ssvae.stats.moments import channel_moments

CHANNELS, GRID = 8, (3, 6, 6)


def planted() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents of three modes of falling strength, the modes (C,3), and their scores (N,3,F,h,w)."""
    generator = torch.Generator().manual_seed(0)
    modes = torch.linalg.qr(torch.randn(CHANNELS, 3, generator=generator, dtype=torch.float64))[0]
    modes = modes * modes.gather(0, modes.abs().argmax(0, keepdim=True)).sign()
    scores = torch.randn(60, 3, *GRID, generator=generator, dtype=torch.float64)
    strengths = torch.tensor([9.0, 4.0, 1.0], dtype=torch.float64).view(1, 3, 1, 1, 1)
    latent = torch.einsum("cm,nmfhw->ncfhw", modes, scores * strengths) + 5
    return latent, modes, scores * strengths


def painter(latent: torch.Tensor, batch: int = 7) -> LatentPainter:
    moments = channel_moments(latent)
    made = LatentPainter(moments.mean, moments.cov)
    for part in latent.split(batch):
        made.update(part)
    return made


def test_modes_are_those_of_numpys_pca_with_a_fixed_sign() -> None:
    latent, modes, _ = planted()
    cov = channel_moments(latent).cov
    basis, std = channel_modes(cov)
    flat = latent.movedim(1, -1).reshape(-1, CHANNELS).numpy()
    _, singular, vectors = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    np.testing.assert_allclose(std.numpy(), singular[:3] / np.sqrt(len(flat) - 1), rtol=1e-9)
    for mode in range(3):
        sign = np.sign(vectors[mode][np.abs(vectors[mode]).argmax()])
        np.testing.assert_allclose(basis[:, mode].numpy(), sign * vectors[mode], atol=1e-8)
    assert (basis * modes).sum(0).min() > 0.99  # the planted ones, up to chance correlation
    # Mirrored latents have the same covariance and must have the same colours' axes.
    assert torch.equal(channel_modes(channel_moments(-latent).cov)[0].sign(), basis.sign())


def test_colours_are_scores_between_the_percentiles_of_the_set() -> None:
    latent, _, _ = planted()
    made = painter(latent)
    basis, _ = channel_modes(channel_moments(latent).cov)
    scores = torch.einsum("cm,ncfhw->nmfhw", basis, latent - latent.mean((0, 2, 3, 4)).view(1, -1, 1, 1, 1))
    low, high = (torch.quantile(scores.movedim(1, 0).flatten(1), q, dim=1) for q in (0.01, 0.99))
    shape = (1, 3, 1, 1, 1)
    expected = (2 * (scores - low.view(shape)) / (high - low).view(shape) - 1).clamp(-1, 1)
    painted = made.paint(latent)
    assert painted.dtype == torch.float32 and painted.shape == (60, 3, *GRID)
    torch.testing.assert_close(painted.double(), expected, rtol=0, atol=0.01)
    assert float(painted.min()) == -1.0 and float(painted.max()) == 1.0
    for end in (-1.0, 1.0):
        assert float((painted == end).double().mean()) == pytest.approx(0.01, abs=0.002)


def test_batches_and_ranks_paint_alike_to_the_bit() -> None:
    latent, _, _ = planted()
    moments = channel_moments(latent)
    ranks = [LatentPainter(moments.mean, moments.cov) for _ in range(2)]
    ranks[0].update(latent[:11])
    ranks[1].update(latent[11:])
    states = [rank.state_dict() for rank in ranks]
    whole = LatentPainter(moments.mean, moments.cov)
    whole.update(latent)
    for rank in ranks:
        rank.join(states)
        assert torch.equal(rank.paint(latent[:2]), whole.paint(latent[:2]))


def test_fewer_modes_than_colours_leave_grey() -> None:
    latent, _, _ = planted()
    two = latent[:, :2]
    assert torch.equal(painter(two).paint(two)[:, 2], torch.zeros(60, *GRID))
    one_mode = latent[:, :1] * torch.tensor([1.0, 2.0, -1.0, 0.5], dtype=torch.float64).view(1, 4, 1, 1, 1)
    painted = painter(one_mode).paint(one_mode)
    assert painted[:, 0].std() > 0.3 and not painted[:, 1:].any()  # rounding is not stretched to colour


def test_enlarged_frames_stand_where_a_causal_vae_has_them() -> None:
    picture = torch.arange(3.0).view(1, 1, 3, 1, 1).expand(1, 3, 3, 2, 2).clone()
    picture[..., 1] += 10
    large = enlarge(picture, (9, 4, 6))
    assert large.shape == (1, 3, 9, 4, 6)
    assert large[0, 0, :, 0, 0].tolist() == [0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert large[0, 0, 0, 0].tolist() == [0, 0, 0, 10, 10, 10]
    assert enlarge(picture, (3, 2, 2)).equal(picture)
    assert enlarge(picture, (6, 2, 2))[0, 0, :, 0, 0].tolist() == [0, 0, 1, 1, 2, 2]  # not causal: spread evenly
    assert enlarge(picture[:, :, :1], (1, 2, 2)).equal(picture[:, :, :1])
    with pytest.raises(ValueError, match="smaller"):
        enlarge(picture, (2, 4, 4))


def test_frames_for_a_figure() -> None:
    video = torch.linspace(-1.2, 1.2, 5).view(1, 5, 1, 1).expand(3, 5, 2, 4)
    row = frames_row(video, 3)
    assert row.shape == (3, 2, 4, 3) and row.dtype == torch.uint8
    assert row[:, 0, 0, 0].tolist() == [0, 128, 255]
    assert len(frames_row(video, 9)) == 5


def test_strange_latents_are_refused() -> None:
    latent, _, _ = planted()
    moments = channel_moments(latent)
    with pytest.raises(ValueError, match="no latents"):
        LatentPainter(moments.mean, moments.cov).paint(latent)
    with pytest.raises(ValueError, match="channels"):
        painter(latent).update(latent[:, :3])
