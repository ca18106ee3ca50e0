from __future__ import annotations

from collections import Counter

import pytest
import torch

from ssvae.core.types import Posterior
from ssvae.regularizers.lmr import LMR
from step_context import step_context


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def always(ratio: float, block: tuple[int, int, int] = (1, 1, 1), channels: int = 3) -> LMR:
    return LMR(channels, (ratio,), (1.0,), block)


@pytest.mark.parametrize(
    "grid, ratio, block, masked",
    [
        ((5, 16, 16), 0.25, (1, 1, 1), 320),
        ((5, 32, 32), 0.75, (2, 2, 2), 480 * 8),  # published 512 px case: 480 of 512 blocks, last frame never
        ((3, 8, 8), 0.25, (2, 2, 2), 6 * 8),
        ((1, 2, 2), 0.1, (1, 1, 1), 1),  # max(1, floor(0.4))
        ((1, 8, 8), 0.75, (2, 2, 2), 0),  # an image holds no block of two frames
        ((3, 2, 2), 0.75, (2, 2, 2), 8),  # floor(9/8) = 1 block, the only one
        ((3, 3, 3), 0.75, (2, 3, 3), 18),
        ((3, 2, 2), 0.9, (2, 1, 1), 8),  # floor(5.4) = 5 of 4 blocks: all of them
    ],
)
def test_number_of_masked_positions(
    grid: tuple[int, int, int], ratio: float, block: tuple[int, int, int], masked: int
) -> None:
    mask = always(ratio, block).draw_mask(grid, ratio, generator())
    assert int(mask.sum()) == masked
    assert mask.shape == grid


def test_blocks_are_masked_whole_and_remainders_never() -> None:
    mask = always(0.5, (2, 2, 3)).draw_mask((5, 5, 7), 0.5, generator())
    assert not mask[4].any() and not mask[:, 4].any() and not mask[:, :, 6].any()
    blocks = mask[:4, :4, :6].view(2, 2, 2, 2, 2, 3).permute(0, 2, 4, 1, 3, 5).flatten(3)
    assert torch.equal(blocks.any(-1), blocks.all(-1)) and 0 < int(blocks.all(-1).sum()) < 8


def test_masked_positions_hold_the_token_and_the_rest_is_untouched_one_mask_for_all() -> None:
    lmr = always(0.5)
    latent = torch.randn(4, 3, 3, 4, 4, generator=generator(1))
    target = torch.randn(4, 3, 9, 8, 8)
    out, same = lmr.transform(latent, target, generator(2))
    assert same is target
    changed = (out != latent).any(1)
    assert torch.equal(changed, changed[:1].expand_as(changed))
    assert int(changed[0].sum()) == 24
    token = lmr.mask_token.detach().expand_as(out)
    where = changed[:, None].expand_as(out)
    assert torch.equal(out[where], token[where]) and torch.equal(out[~where], latent[~where])
    repeated, _ = lmr.transform(latent, target, generator(2))
    other, _ = lmr.transform(latent, target, generator(3))
    assert torch.equal(out, repeated) and not torch.equal(out, other)


def test_gradient_reaches_the_token_and_only_unmasked_latents() -> None:
    lmr = always(0.25)
    latent = torch.randn(2, 3, 2, 2, 2, generator=generator(4)).requires_grad_()
    out, _ = lmr.transform(latent, torch.zeros(1), generator(5))
    out.sum().backward()
    assert lmr.mask_token.grad is not None and latent.grad is not None
    assert torch.equal(lmr.mask_token.grad.flatten(), torch.full((3,), 4.0))  # 2 of 8 positions, 2 items
    assert torch.equal(latent.grad, (out == latent).float())


def test_ratio_zero_and_evaluation_return_the_latent_itself() -> None:
    latent, target = torch.randn(1, 3, 2, 2, 2), torch.zeros(1)
    never, lmr = always(0.0), always(0.75)
    assert never.transform(latent, target, generator())[0] is latent
    lmr.eval()
    state = (drawn := generator()).get_state()
    assert lmr.transform(latent, target, drawn)[0] is latent
    assert torch.equal(drawn.get_state(), state)


def test_ratios_are_drawn_as_often_as_stated() -> None:
    lmr = LMR(3, (0.0, 0.25, 0.5, 0.75), (0.6, 0.1, 0.15, 0.15))
    drawn = generator(6)
    counts = Counter(lmr.draw_ratio(drawn) for _ in range(20000))
    for ratio, probability in zip(lmr.ratios, lmr.probabilities, strict=True):
        assert counts[ratio] / 20000 == pytest.approx(probability, abs=0.012)
    mean = sum(ratio * count for ratio, count in counts.items()) / 20000
    assert mean == pytest.approx(0.2125, abs=0.008)


def test_impossible_ratios_are_never_drawn() -> None:
    lmr = LMR(3, (0.1, 0.2, 0.3, 0.4), (0.0, 1.0, 0.0, 0.0))
    drawn = generator(7)
    assert {lmr.draw_ratio(drawn) for _ in range(500)} == {0.2}


def test_masked_fraction_is_reported_for_the_latest_step() -> None:
    lmr = always(0.5)
    latent = torch.zeros(1, 3, 1, 4, 4)
    video = torch.zeros(1, 3, 1, 8, 8)
    ctx = step_context(Posterior(latent, latent), video)
    lmr.transform(latent, video, generator())
    assert lmr.stats(ctx)["masked_fraction"].item() == 0.5
    lmr.eval()
    lmr.transform(latent, video, generator())
    assert lmr.stats(ctx)["masked_fraction"].item() == 0.0


def test_token_shape_and_initial_spread() -> None:
    torch.manual_seed(0)
    token = LMR(4096).mask_token.detach()
    assert token.shape == (1, 4096, 1, 1, 1)
    assert float(token.mean()) == pytest.approx(0, abs=0.06) and float(token.std()) == pytest.approx(1, abs=0.04)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"probabilities": (0.7, 0.1, 0.1, 0.2)}, "sum to 1"),
        ({"probabilities": (1.1, -0.1, 0.0, 0.0)}, "lie in"),
        ({"ratios": (0.0, 0.5)}, "one entry each"),
        ({"ratios": (0.0, 0.25, 0.5, 1.0)}, "hide the whole"),
        ({"ratios": (), "probabilities": ()}, "one entry each"),
        ({"block": (1, 0, 1)}, "positive integers"),
        ({"channels": 0}, "channels"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LMR(**{"channels": 3, **arguments})
