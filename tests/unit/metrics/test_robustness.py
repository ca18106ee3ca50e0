from __future__ import annotations

import pytest
import torch

from ssvae.metrics.robustness import NoiseRobustness, noise_robustness


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def latents(n: int = 6) -> torch.Tensor:
    return torch.rand(n, 3, 4, 8, 8, generator=generator(1)) - 0.5


def test_identity_decoder_gives_the_noises_own_psnr() -> None:
    std = torch.tensor([0.1, 0.2, 0.05])
    latent = latents(40) * 0.2
    rows = noise_robustness(lambda z: z, latent, std, latent, generator(2), noise=(0.0, 0.5, 1.0), batch=16)
    assert [row.name for row in rows] == ["psnr_noise_0_db", "psnr_noise_0.5_db", "psnr_noise_1_db"]
    assert rows[0].value == 100.0
    expected = -10 * torch.log10(std.double().square().mean() / 4).item()
    assert rows[2].value == pytest.approx(expected, abs=0.1)
    assert rows[1].value - rows[2].value == pytest.approx(6.0206, abs=1e-3)  # one draw for all levels
    assert rows[1].n == 40 and rows[1].ci95 is not None and rows[1].direction == "up"
    assert len({row.protocol for row in rows}) == 3


def test_a_decoder_that_ignores_its_latent_is_perfectly_robust() -> None:
    video = latents()
    rows = noise_robustness(lambda z: torch.zeros_like(z), video, torch.ones(3), video, generator(), noise=(0.0, 2.0))
    assert rows[0].value == rows[1].value


def test_pieces_merge_and_the_size_of_a_batch_changes_nothing() -> None:
    latent, std = latents(), torch.ones(3)
    draw = torch.randn(latent.shape, generator=generator(3))
    whole, left, right = (NoiseRobustness(lambda z: z, std, (0.3,)) for _ in range(3))
    whole.update(latent, latent, draw)
    left.update(latent[:4], latent[:4], draw[:4])
    right.update(latent[4:], latent[4:], draw[4:])
    left.merge(right)
    assert left.compute() == whole.compute()
    same = [noise_robustness(lambda z: z, latent, std, latent, generator(3), (0.3,), batch) for batch in (1, 3, 99)]
    assert same[0] == same[1] == same[2] == whole.compute()
    other = noise_robustness(lambda z: z, latent, std, latent, generator(4), noise=(0.3,))
    assert other[0].value != whole.compute()[0].value
    with pytest.raises(ValueError, match="draw has shape"):
        whole.update(latent, latent, draw[:1])


def test_mistakes_are_refused() -> None:
    for noise in ((), (-0.1,), (0.1, 0.1), (float("nan"),)):
        with pytest.raises(ValueError, match="noise levels"):
            NoiseRobustness(lambda z: z, torch.ones(3), noise)
    with pytest.raises(ValueError, match="channels"):
        noise_robustness(lambda z: z, latents(), torch.ones(2), latents(), generator())
    with pytest.raises(ValueError, match="own latent"):
        noise_robustness(lambda z: z, latents(2), torch.ones(3), latents(3), generator())
    with pytest.raises(ValueError, match="no clips"):
        NoiseRobustness(lambda z: z, torch.ones(3)).compute()


def test_the_curve_is_the_metrics_with_levels_in_order() -> None:
    latent, draw = latents(), torch.randn(6, 3, 4, 8, 8, generator=generator(5))
    robustness = NoiseRobustness(lambda z: z, torch.ones(3), (0.3, 0.0, 0.1))
    robustness.update(latent, latent, draw)
    levels, band = robustness.curve(["a", "a", "b", "c", "d", "e"])
    assert levels.tolist() == [0.0, 0.1, 0.3]
    rows = {row.protocol.rpartition("=")[2]: row for row in robustness.compute(["a", "a", "b", "c", "d", "e"])}
    assert band.low is not None and band.high is not None
    for place, level in enumerate(("0", "0.1", "0.3")):
        assert band.mean[place] == rows[level].value
        assert (band.low[place], band.high[place]) == rows[level].ci95


def test_level_zero_takes_what_was_decoded_already() -> None:
    latent, calls = latents(2), []

    def decode(z: torch.Tensor) -> torch.Tensor:
        calls.append(z)
        return 0.5 * z

    draw = torch.randn(latent.shape, generator=generator(5))
    once, twice = (NoiseRobustness(decode, torch.ones(3), (0.0, 0.4)) for _ in range(2))
    once.update(latent, latent, draw, decoded=decode(latent))
    assert len(calls) == 2
    twice.update(latent, latent, draw)
    assert len(calls) == 4 and once.compute() == twice.compute()


def test_a_state_goes_on_in_another_process() -> None:
    latent, draw = latents(), torch.randn(6, 3, 4, 8, 8, generator=generator(3))
    whole, left, right, empty = (NoiseRobustness(lambda z: z, torch.ones(3), (0.0, 0.3)) for _ in range(4))
    whole.update(latent, latent, draw)
    left.update(latent[:4], latent[:4], draw[:4])
    right.update(latent[4:], latent[4:], draw[4:])
    received = NoiseRobustness(lambda z: z, torch.ones(3), (0.0, 0.3))
    received.load_state_dict(right.state_dict())
    left.merge(received)
    received.load_state_dict(empty.state_dict())
    left.merge(received)
    assert left.compute() == whole.compute()
    with pytest.raises(ValueError, match="1 levels"):
        NoiseRobustness(lambda z: z, torch.ones(3), (0.3,)).load_state_dict(left.state_dict())
