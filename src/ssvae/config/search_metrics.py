"""Names of the metrics that a cell is going to have, by the stage that makes them: known before anything is computed.

Names only, no numbers: what they are is in metrics/, which a mistyped command must not have to import. A test holds
this list against the files of a real cell.
"""

from __future__ import annotations

from typing import Literal

from ssvae.config.reg import terms_in
from ssvae.config.score import MeasureConfig
from ssvae.config.tree import Config

Side = Literal["up", "down", "none"]
"""Which values are better."""

_MODES = (1, 2, 4, 8, 16, 32)
_SHARES = ("dc_share", "high_share", "above_25", "above_75", "spatial_high_share", "temporal_high_share")
_STRENGTHS = ("flow_max", "flow_mean", "flow_time_mean", "vp_max", "vp_mean")
_LEAST_CLIPS = 2
_TIMES = 4


def measured_metrics(cfg: Config) -> dict[str, Side]:
    """Metrics of stage ``measure`` -> their better side."""
    stage = cfg.stages.measure
    score = stage.score
    found: dict[str, Side] = {"psnr_db": "up", "psnr_frame_db": "up", "ssim": "up"}
    plain = ["psnr_mean_colour_db", f"psnr_down{score.downsample}_db", "local_correlation", "kl_per_dim"]
    plain += ["posterior_std", *(f"{of}dct_{share}" for of in ("", "rgb_") for share in _SHARES)]
    plain += ["local_correlation_" + "x".join(map(str, window)) for window in score.windows]
    for ending in ("", "_normalized"):
        plain += [f"participation_ratio{ending}", *(f"explained_variance_{modes}{ending}" for modes in _MODES)]
    plain += [f"mode_strength_{name}" for name in _STRENGTHS]
    plain += ["viv"] if score.clips >= _LEAST_CLIPS else []
    plain += [f"psnr_chop_{of}_{100 * share:g}_db" for of in ("latent", "rgb") for share in score.chop]
    found.update(dict.fromkeys(plain, "none"))
    found.update(dict.fromkeys(_robustness(cfg, score), "up"))
    networks = stage.networks
    given = {"lpips_vgg": networks.lpips_vgg, "lpips_alex": networks.lpips_alex}
    given |= {"rfdd": networks.dinov2, "rfvd": networks.i3d}
    found.update({name: "down" for name, path in given.items() if path is not None})
    return found


def probed_metrics(cfg: Config) -> dict[str, Side]:
    """Metrics of stage ``probe`` -> their better side. The questions of a reward model are its own, and not here."""
    stage = cfg.stages.probe
    found: dict[str, Side] = {"probe_reward": "up", "probe_reward_wrong": "none", "probe_reward_unreadable": "none"}
    networks = {"fdd": stage.networks.dinov2, "fvd": stage.networks.i3d}
    distances = ["probe_fd", *(name for name, path in networks.items() if path is not None)]
    losses = ["diffusion_loss", *(f"diffusion_loss_t{k}of{_TIMES}" for k in range(1, _TIMES + 1))]
    found.update(dict.fromkeys([*losses, *distances], "down"))
    found.update(dict.fromkeys(["probe_fd_gaussian", *(f"{name}_reconstruction" for name in distances)], "none"))
    if stage.reward is not None:
        found["reward_mean"] = "up"
    return found


def _robustness(cfg: Config, score: MeasureConfig) -> list[str]:
    names = [f"psnr_noise_{level:g}_db" for level in score.noise]
    names += [f"psnr_masked_{ratio:g}_db" for ratio in score.mask]
    trained = getattr(cfg.stages, score.trained.value)
    if cfg.vae.weights is None and trained is not None and terms_in(trained.reg.terms, score.trained).lmr is not None:
        names += [f"psnr_token_masked_{ratio:g}_db" for ratio in score.mask]
    return names
