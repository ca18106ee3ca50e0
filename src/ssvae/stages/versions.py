"""Versions of the components that make a stage's numbers; bumping one recomputes what depends on it."""

from __future__ import annotations

from ssvae.metrics import protocol
from ssvae.metrics.diffusion_loss import LOSS_PROTOCOL, TIME_PROTOCOL
from ssvae.metrics.fdd import FDD_PROTOCOL
from ssvae.metrics.fvd import FVD_PROTOCOL
from ssvae.metrics.mask_robustness import MASK_PROTOCOL
from ssvae.metrics.recon import LPIPS_PROTOCOL
from ssvae.models.dit import VideoDiT
from ssvae.models.features import read_card
from ssvae.objective import adversary, nll, vae_step, weighting
from ssvae.regularizers.cov import Covariance
from ssvae.regularizers.eq import EQ
from ssvae.regularizers.kl import KL
from ssvae.regularizers.lcr import LCR
from ssvae.regularizers.lmr import LMR
from ssvae.regularizers.noise import Noise
from ssvae.regularizers.predictive import Predictive
from ssvae.regularizers.se import SE
from ssvae.regularizers.vf import VisionFoundation
from ssvae.stats.spectrum import SPECTRUM_PROTOCOL
from ssvae.train import dit_loop, vae_loop

DATA = 1
MEASURE = 3
LATENTS = 1
PROBE = 2
VAE = 1

REGULARIZERS: dict[str, int] = {
    kind.name: kind.version for kind in (KL, LCR, Covariance, VisionFoundation, Predictive, Noise, EQ, LMR, SE)
}
"""By the name of the term: only those that a cell uses count."""
NETWORK_PROTOCOLS = {
    "lpips_vgg": LPIPS_PROTOCOL,
    "lpips_alex": LPIPS_PROTOCOL,
    "dinov2": FDD_PROTOCOL,
    "i3d": FVD_PROTOCOL,
}
"""By the network from outside that a metric needs: only those that a cell uses count."""
_TRAINING = {
    "data": DATA,
    "vae": VAE,
    "nll": nll.VERSION,
    "step": vae_step.VERSION,
    "weighting": weighting.VERSION,
    "adversary": adversary.VERSION,
    "loop": vae_loop.VERSION,
}
VERSIONS: dict[str, dict[str, object]] = {
    "base": {**_TRAINING},
    "pretrain": {**_TRAINING},
    "decoder_finetune": {**_TRAINING},
    "measure": {
        "data": DATA,
        "measure": MEASURE,
        "protocols": [
            protocol.PSNR_PROTOCOL,
            protocol.PSNR_FRAME_PROTOCOL,
            protocol.SSIM_PROTOCOL,
            protocol.EIGEN_PROTOCOL,
            protocol.EIGEN_NORMALIZED_PROTOCOL,
            protocol.KL_PROTOCOL,
            protocol.POSTERIOR_STD_PROTOCOL,
            protocol.ROBUSTNESS_PROTOCOL,
            protocol.local_correlation_protocol((1, 1, 1)),
            protocol.CHOP_PROTOCOL,
            protocol.MODE_STRENGTH_PROTOCOL,
            protocol.viv_protocol(()),
            MASK_PROTOCOL,
            SPECTRUM_PROTOCOL,
        ],
    },
    "latents": {"data": DATA, "latents": LATENTS},
    "dit": {"dit": VideoDiT.version, "loop": dit_loop.VERSION},
    "probe": {
        "probe": PROBE,
        "protocols": [LOSS_PROTOCOL, TIME_PROTOCOL],
        "networks": [read_card(name).sha256 for name in ("probe_features", "probe_judge")],
    },
}
