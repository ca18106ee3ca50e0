"""Masked latents through decoders whose answer is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ssvae.core.seeds import torch_generator
from ssvae.metrics.mask_robustness import MaskRobustness, block_ranks, masked_blocks


def latents(n: int = 6) -> Tensor:
    return torch.rand(n, 3, 4, 8, 8, generator=torch.Generator().manual_seed(1)) - 0.5


def generators(first: int, count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch_generator(seed, "test/mask", place) for place in range(first, first + count)]


def test_identity_decoder_shows_exactly_the_masked_positions() -> None:
    """With constant latents 0 and fill 0.4 every masked position errs by 0.2 on the [0,1] scale."""
    latent = torch.zeros(5, 3, 4, 8, 8)
    robustness = MaskRobustness(lambda z: z, torch.full((3,), 0.4), (0.0, 0.25, 0.5))
    robustness.update(latent, latent, generators(0, 5))
    rows = robustness.compute()
    assert [row.name for row in rows] == ["psnr_masked_0_db", "psnr_masked_0.25_db", "psnr_masked_0.5_db"]
    assert rows[0].value == 100.0
    for row, ratio in zip(rows[1:], (0.25, 0.5), strict=True):
        assert row.value == pytest.approx(-10 * torch.log10(torch.tensor(ratio * 0.2**2)).item(), abs=1e-5)
    assert rows[1].protocol == (
        "psnr_under_latent_masking/1;range=0-1;clamped;cap=100dB;fill=mean;block=1x1x1;ratio=0.25"
    )
    assert rows[1].n == 5 and rows[1].ci95 is not None and rows[1].direction == "up"


def test_each_channel_gets_its_own_fill_and_unmasked_positions_stay() -> None:
    latent, seen = latents(2), []

    def decode(z: Tensor) -> Tensor:
        seen.append(z)
        return z

    fill = torch.tensor([5.0, 6.0, 7.0])
    MaskRobustness(decode, fill, (0.25, 0.75)).update(latent, latent, generators(0, 2))
    small, large = (torch.stack([z[:, c] == fill[c] for c in range(3)], 1) for z in seen)
    for masked, ratio in ((small, 0.25), (large, 0.75)):
        assert torch.equal(masked[:, 0], masked[:, 1]) and torch.equal(masked[:, 0], masked[:, 2])
        assert masked[:, 0].flatten(1).sum(1).tolist() == [ratio * 256] * 2
    assert bool((large | ~small).all()), "a larger mask contains each smaller one"
    assert not torch.equal(small[0], small[1]), "each clip has a draw of its own"
    assert torch.equal(seen[0][~small], latent[~small])


def test_pieces_merge_and_the_size_of_a_batch_changes_nothing() -> None:
    latent = latents()

    def measured(sizes: list[int], seed: int = 0) -> MaskRobustness:
        whole, done = MaskRobustness(lambda z: z, torch.zeros(3), (0.5,)), 0
        for size in sizes:
            part = MaskRobustness(lambda z: z, torch.zeros(3), (0.5,))
            clips = latent[done : done + size]
            part.update(clips, clips, generators(done, size, seed))
            received = MaskRobustness(lambda z: z, torch.zeros(3), (0.5,))
            received.load_state_dict(part.state_dict())
            whole.merge(received)
            done += size
        return whole

    assert measured([6]).compute() == measured([4, 2]).compute() == measured([1] * 6).compute()
    assert measured([6]).compute()[0].value != measured([6], seed=1).compute()[0].value
    with pytest.raises(ValueError, match="cannot merge"):
        measured([6]).merge(MaskRobustness(lambda z: z, torch.zeros(3), (0.25,)))
    with pytest.raises(ValueError, match="cannot merge"):
        measured([6]).merge(MaskRobustness(lambda z: z, torch.zeros(3), (0.5,), fill_name="token"))


def test_the_token_has_names_of_its_own_and_meets_the_same_masks() -> None:
    latent, seen = torch.zeros(2, 3, 4, 8, 8), []

    def decode(z: Tensor) -> Tensor:
        seen.append(z != 0)
        return z

    mean = MaskRobustness(decode, torch.full((3,), 0.1), (0.5,))
    token = MaskRobustness(decode, torch.full((3,), 0.4), (0.5,), fill_name="token")
    for robustness in (mean, token):
        robustness.update(latent, latent, generators(0, 2))
    assert torch.equal(seen[0], seen[1])
    (row,) = token.compute()
    assert row.name == "psnr_token_masked_0.5_db" and ";fill=token;" in row.protocol
    assert mean.compute()[0].value > row.value


def test_the_curve_has_ratios_in_order_and_the_plain_reconstruction_at_zero() -> None:
    latent = latents()
    robustness = MaskRobustness(lambda z: 0.5 * z, torch.zeros(3), (0.75, 0.0, 0.25))
    robustness.update(latent, latent, generators(0, 6), decoded=0.5 * latent)
    ratios, band = robustness.curve()
    assert ratios.tolist() == [0.0, 0.25, 0.75]
    rows = {row.name: row for row in robustness.compute()}
    assert band.mean.tolist() == [rows[f"psnr_masked_{ratio:g}_db"].value for ratio in ratios.tolist()]
    assert band.mean[0] > band.mean[1] > band.mean[2] and band.low is not None and band.low[1] < band.mean[1]


def test_blocks_are_masked_whole_and_counted_as_lmr_counts() -> None:
    ranks = block_ranks((5, 4, 6), (2, 2, 2), torch.Generator().manual_seed(0))
    assert bool((ranks[4] == 12).all()), "the fifth frame is in no whole block"
    blocks = ranks[:4].unfold(0, 2, 2).unfold(1, 2, 2).unfold(2, 2, 2).flatten(3)
    assert torch.equal(blocks.amin(-1), blocks.amax(-1))
    assert sorted(blocks[..., 0].flatten().tolist()) == list(range(12))
    assert masked_blocks((5, 4, 6), (2, 2, 2), 0.5) == 7  # 120 positions, 60 of them, 8 a block
    assert masked_blocks((5, 4, 6), (2, 2, 2), 0.9) == 12  # no more than there are
    assert masked_blocks((1, 1, 10), (1, 1, 1), 0.7) == 7 and masked_blocks((1, 1, 100), (1, 1, 1), 0.29) == 29
    with pytest.raises(ValueError, match=r"0\.1 masks none of the 4 blocks"):
        masked_blocks((1, 2, 2), (1, 1, 1), 0.1)


def test_mistakes_are_refused() -> None:
    for ratios in ((), (1.0,), (-0.1,), (0.5, 0.5), (float("nan"),)):
        with pytest.raises(ValueError, match="mask ratios"):
            MaskRobustness(lambda z: z, torch.zeros(3), ratios)
    with pytest.raises(ValueError, match="mask block"):
        MaskRobustness(lambda z: z, torch.zeros(3), (0.5,), (1, 0, 1))
    with pytest.raises(ValueError, match="mean, token"):
        MaskRobustness(lambda z: z, torch.zeros(3), (0.5,), fill_name="noise")  # type: ignore[arg-type]
    robustness = MaskRobustness(lambda z: z, torch.zeros(2), (0.5,))
    with pytest.raises(ValueError, match="3 channels, fill 2"):
        robustness.update(latents(1), latents(1), generators(0, 1))
    with pytest.raises(ValueError, match="1 generators for 2 clips"):
        MaskRobustness(lambda z: z, torch.zeros(3), (0.5,)).update(latents(2), latents(2), generators(0, 1))
    with pytest.raises(ValueError, match="no clips"):
        robustness.compute()
