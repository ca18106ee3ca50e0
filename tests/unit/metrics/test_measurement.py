"""All of a VAE's metrics in one pass: equal to their parts, whatever the batch; what is not asked for is left out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ssvae.core.seeds import torch_generator
from ssvae.metrics.fvd import load_fvd
from ssvae.metrics.interval import clip_means
from ssvae.metrics.latents import latent_report
from ssvae.metrics.measurement import NOISE_SEED, Measured, Measurement, MeasurementSettings
from ssvae.metrics.recon import PSNR_CAP, psnr
from ssvae.models.vae import VideoVAE
from ssvae.stats.chop import chop_high_frequencies
from tiny_i3d import write_tiny_i3d

CLIPS, SIZE = 5, (5, 16, 16)
KEYS = ["a", "a", "b", "c", "d"]
SETTINGS = MeasurementSettings(
    window=(1, 2, 2),
    windows=((1, 4, 4), (3, 3, 3)),
    block=(1, 2, 2),
    chop=(0.5,),
    noise=(0.5,),
    mask=(0.25,),
    downsample=4,
)


@pytest.fixture(scope="module")
def vae() -> VideoVAE:
    torch.manual_seed(0)
    made = VideoVAE(
        channels=3, base_channels=4, multipliers=(1, 2, 2), encoder_blocks=1, decoder_blocks=1,
        temporal_levels=(True, False),
    )  # fmt: skip
    return made.eval()


@pytest.fixture(scope="module")
def clips() -> Tensor:
    return torch.rand(CLIPS, 3, *SIZE, generator=torch_generator(1, "clips")) * 2 - 1


STD, MEAN = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([0.1, 0.0, -0.1])


def measure(
    vae: VideoVAE, clips: Tensor, batch: int, settings: MeasurementSettings = SETTINGS, **more: object
) -> Measured:
    one = Measurement(vae, SIZE, settings, mean=MEAN, std=STD, **more)  # type: ignore[arg-type]
    for start in range(0, len(clips), batch):
        part = slice(start, start + batch)
        one.update(clips[part], KEYS[part], list(range(len(clips)))[part])
    return one.finish()


def named(measured: Measured) -> dict[str, float]:
    return {value.name: value.value for value in measured.values}


def test_no_number_hangs_on_the_batch(vae: VideoVAE, clips: Tensor) -> None:
    token = torch.ones(1, 3, 1, 1, 1)
    whole, single = (measure(vae, clips, batch, token=token, kept=2) for batch in (CLIPS, 1))
    assert named(whole).keys() == named(single).keys()
    for name, value in named(whole).items():
        assert named(single)[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    for a, b in zip(whole.panels, single.panels, strict=True):
        assert torch.allclose(a, b, atol=1e-4)
    assert [row["key"] for row in whole.clips] == KEYS and whole.curves.keys() == single.curves.keys()


def test_it_is_the_sum_of_its_parts(vae: VideoVAE, clips: Tensor) -> None:
    found = named(measure(vae, clips, 2))
    with torch.no_grad():
        posterior = vae.encode(clips)
        latent = posterior.mode()
        draws = [
            torch.randn(latent.shape[1:], generator=torch_generator(NOISE_SEED, "measure/noise", i)) for i in range(5)
        ]
        noisy = latent + 0.5 * torch.stack(draws) * STD.view(-1, 1, 1, 1)
        expected = {
            "psnr_db": vae.decode(latent),
            "psnr_noise_0.5_db": vae.decode(noisy),
            "psnr_chop_latent_50_db": vae.decode(chop_high_frequencies(latent, (1, 2, 2), 0.5)),
        }
    for name, decoded in expected.items():
        values = psnr(decoded.clamp(-1, 1), clips).clamp_max(PSNR_CAP)
        assert found[name] == pytest.approx(float(clip_means(values, KEYS).mean()), abs=1e-4), name
    report = latent_report(posterior.mean, posterior.logvar, (1, 2, 2), (1, 2, 2), keys=KEYS)
    for value in report.values:
        assert found[value.name] == pytest.approx(value.value, rel=1e-6, abs=1e-9), value.name


def test_masked_positions_take_the_given_mean_or_the_token(vae: VideoVAE, clips: Tensor) -> None:
    """With the token equal to the mean both curves are one; with another they are not."""
    same = named(measure(vae, clips, 2, token=MEAN.view(1, 3, 1, 1, 1)))
    other = named(measure(vae, clips, 2, token=MEAN.view(1, 3, 1, 1, 1) + 3))
    assert same["psnr_token_masked_0.25_db"] == same["psnr_masked_0.25_db"] == other["psnr_masked_0.25_db"]
    assert other["psnr_token_masked_0.25_db"] != same["psnr_masked_0.25_db"]


def test_what_is_not_asked_is_absent(vae: VideoVAE, clips: Tensor) -> None:
    bare = measure(vae, clips, 2, replace(SETTINGS, chop=(), noise=(), mask=()))
    words = ("chop", "noise", "masked")
    assert not [name for name in (*named(bare), *bare.curves) if any(word in name for word in words)]
    assert bare.chopped is None and bare.panels == []
    full = named(measure(vae, clips, 2))
    assert {name: full[name] for name in named(bare)} == named(bare), "and changes nothing else"
    assert list(measure(vae, clips, 2).left_out) == ["local_correlation_3x3x3"]


def test_curves_begin_at_the_plain_reconstruction(vae: VideoVAE, clips: Tensor) -> None:
    measured = measure(vae, clips, 2)
    plain = named(measured)["psnr_db"]
    for name in ("psnr_noise", "psnr_masked"):
        curve = measured.curves[name]
        assert curve["x"][0] == 0 and curve["y"][0] == pytest.approx(plain)
        assert all(low <= y <= high for low, y, high in zip(curve["low"], curve["y"], curve["high"], strict=True))


def test_distances_between_clips_and_their_reconstructions(
    vae: VideoVAE, clips: Tensor, tmp_path_factory: pytest.TempPathFactory
) -> None:
    network = load_fvd(write_tiny_i3d(tmp_path_factory.mktemp("i3d") / "i3d.pt"), frames=9)
    long = torch.rand(4, 3, 9, 16, 16, generator=torch_generator(2, "clips")) * 2 - 1

    class Perfect:
        """Decodes to the clips themselves."""

        def __getattr__(self, name: str) -> object:
            return getattr(vae, name)

        def decode(self, latent: Tensor) -> Tensor:
            return next(clip[None] for clip in long if torch.equal(vae.encode(clip[None]).mode(), latent))

    def distance(model: object) -> float:
        settings = replace(SETTINGS, chop=(), noise=(), mask=())
        one = Measurement(model, (9, 16, 16), settings, mean=MEAN, std=STD, networks=[network])  # type: ignore[arg-type]
        for place, clip in enumerate(long):
            one.update(clip[None], [str(place)], [place])
        return named(one.finish())["rfvd"]

    assert distance(Perfect()) == 0.0 < distance(vae)


def test_without_clips_nothing_is_claimed(vae: VideoVAE) -> None:
    with pytest.raises(ValueError, match="no clip"):
        Measurement(vae, SIZE, SETTINGS, mean=MEAN, std=STD).finish()
