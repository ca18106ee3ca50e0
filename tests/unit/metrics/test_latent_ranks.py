"""Two real processes, each with its clips, report what one process reports of all of them, to the last digits."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ssvae.core.ranks import ALONE, Ranks
from ssvae.core.types import Posterior
from ssvae.metrics.chopping import ChoppingCurve
from ssvae.metrics.latents import LatentStatistics
from ssvae.metrics.pictures import LatentPainter
from ssvae.metrics.pixel_spectrum import PixelSpectrum

CHANNELS, GRID, CLIP_GRID = 6, (3, 4, 4), (5, 8, 8)
SHARES = {0: slice(0, 5), 1: slice(5, 7)}


def clips() -> tuple[torch.Tensor, Posterior]:
    generator = torch.Generator().manual_seed(4)
    video = torch.rand(7, 3, *CLIP_GRID, generator=generator, dtype=torch.float64) * 2 - 1
    latent = torch.randn(7, CHANNELS, *GRID, generator=generator, dtype=torch.float64)
    latent[..., 1:] += latent[..., :-1].clone()
    latent[:, 1] += latent[:, 0]
    return video, Posterior(latent + 1, torch.randn(latent.shape, generator=generator, dtype=torch.float64) - 3)


def decode(latent: torch.Tensor) -> torch.Tensor:
    larger = latent[:, :3].repeat_interleave(2, 3).repeat_interleave(2, 4) / 4
    return torch.cat([larger[:, :, :1], larger[:, :, 1:].repeat_interleave(2, 2)], 2)


def measured(ranks: Ranks, share: slice, batch: int) -> dict[str, Any]:
    """Everything that measuring reports, as numbers and tensors; one process alone joins nothing."""
    video, posterior = clips()
    video, mean, logvar = video[share], posterior.mean[share], posterior.logvar[share]
    latents = LatentStatistics(CHANNELS, GRID, windows=((1, 2, 2), (2, 4, 4)))
    pixels, chopping = PixelSpectrum(CLIP_GRID, (2, 4, 4)), ChoppingCurve(decode, (2, 2, 2), (2, 4, 4))
    for part, m, v in zip(video.split(batch), mean.split(batch), logvar.split(batch), strict=True):
        latents.update(Posterior(m, v))
        pixels.update(part)
        chopping.update(part, m)
    if ranks.world > 1:
        latents.join(ranks.gather(latents.state_dict()))
    painter = LatentPainter(latents.moments.mean, latents.moments.cov)
    for m in mean.split(batch):
        latents.correlate(m)
        painter.update(m)
    if ranks.world > 1:
        latents.join_correlation(ranks.gather(latents.state_dict()))
        pixels.join(ranks.gather(pixels.state_dict()))
        chopping.join(ranks.gather(chopping.state_dict()))
        painter.join(ranks.gather(painter.state_dict()))
    report = latents.compute()
    values = [*report.values, *pixels.compute(), *chopping.compute()]
    curves = {**report.curves, **pixels.curves(), **chopping.curves()}
    return {
        "values": {value.name: (value.value, value.n, value.ci95) for value in values},
        "curves": {name: y for name, (_, y) in curves.items()},
        "pictures": chopping.pictures(),
        "painted": painter.paint(posterior.mean[:1]),
    }


def member(rank: int, store: str, out: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    torch.save(measured(Ranks.current(), SHARES[rank], 2), Path(out) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    mp.spawn(member, (str(folder / "store"), str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(found["values"]) == list(expected["values"])
    for name, (value, n, interval) in expected["values"].items():
        assert found["values"][name][0] == pytest.approx(value, rel=1e-12, abs=1e-12), name
        assert found["values"][name][1] == n, name
        assert (interval is None) == (found["values"][name][2] is None), name
        assert interval is None or found["values"][name][2] == pytest.approx(interval, rel=1e-11), name
    for name, curve in expected["curves"].items():
        torch.testing.assert_close(found["curves"][name], curve, rtol=1e-12, atol=1e-12, msg=name)
    assert torch.equal(found["pictures"], expected["pictures"]), "of the first clip of the first rank"
    torch.testing.assert_close(found["painted"], expected["painted"], rtol=0, atol=1e-6)


def test_two_processes_are_one(pair: list[dict[str, Any]]) -> None:
    whole = measured(ALONE, slice(0, 7), 7)
    for found in pair:
        assert_equal(found, whole)
    assert pair[0]["values"] == pair[1]["values"], "every rank knows the result, to the bit"
    assert {"viv", "kl_per_dim", "local_correlation_2x4x4", "rgb_dct_high_share"} <= set(whole["values"])


@pytest.mark.parametrize("batch", [1, 3])
def test_the_size_of_a_batch_changes_nothing(batch: int) -> None:
    assert_equal(measured(ALONE, slice(0, 7), batch), measured(ALONE, slice(0, 7), 7))


def test_a_rank_without_clips_adds_nothing() -> None:
    _, posterior = clips()
    full, empty = LatentStatistics(CHANNELS, GRID), LatentStatistics(CHANNELS, GRID)
    full.update(posterior)
    states = [empty.state_dict(), full.state_dict()]
    for statistics in (full, empty):
        statistics.join(states)
    full.correlate(posterior.mean)
    full.join_correlation([empty.state_dict(), full.state_dict()])
    alone = LatentStatistics(CHANNELS, GRID)
    alone.update(posterior)
    alone.correlate(posterior.mean)
    for found, expected in zip(full.compute().values, alone.compute().values, strict=True):
        assert (found.name, found.value) == (expected.name, pytest.approx(expected.value, rel=1e-12))
