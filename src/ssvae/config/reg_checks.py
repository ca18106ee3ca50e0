"""What regularisers ask of the latents, of the stage and of each other: rules that types cannot say."""

from __future__ import annotations

from collections.abc import Iterator

from ssvae.config.objective import ObjectiveConfig
from ssvae.config.problem import Problem
from ssvae.config.reg import EQConfig, Policy, SEConfig, TermsConfig, TrainedStage, VFConfig, lmr_shape, terms_in
from ssvae.config.resolution import LmrShape
from ssvae.config.tree import VaeStageConfig
from ssvae.config.vae import VaeConfig

Grid = tuple[int, int, int]
ON_POSTERIOR = ("kl", "lcr", "cov", "vf")
"""Terms that reach the encoder alone."""
DINO_PATCH = 14
LPIPS_SMALLEST = 16
"""As in models/dinov2.py and models/lpips.py, which a mistyped command must not have to import."""


def check(key: str, stage: VaeStageConfig, kind: TrainedStage, vae: VaeConfig, grid: Grid | None) -> Iterator[Problem]:
    """Problems of ``stage.reg``. key: where a user sets it; grid: (F,h,w) of its latents, None where there is none."""
    every = stage.reg.terms
    for name in ON_POSTERIOR:
        term = getattr(every, name)
        if term is not None and TrainedStage.decoder_finetune in term.stages:
            remedy = "acts on the encoder, which decoder_finetune freezes: leave [pretrain]"
            yield Problem(f"{key}.terms.{name}.stages", str([entry.value for entry in term.stages]), remedy)
    # A term that is absent from this stage is judged in the stage where it is present.
    terms = terms_in(every, kind)
    key = f"{key}.terms"
    yield from _strengths(key, terms, kind)
    if terms.lcr is not None:
        yield from window_problems(f"{key}.lcr.window", terms.lcr.window, grid)
        if not -1.0 <= terms.lcr.threshold <= 1.0:
            yield Problem(f"{key}.lcr.threshold", str(terms.lcr.threshold), "a correlation: [-1, 1]")
    if terms.cov is not None and not 1 <= terms.cov.modes < vae.channels:
        yield Problem(
            f"{key}.cov.modes", str(terms.cov.modes), f"must lie in [1, {vae.channels - 1}], below the latent channels"
        )
    if terms.vf is not None:
        yield from _vf(f"{key}.vf", terms.vf)
    if terms.predictive is not None:
        yield from _predictive(f"{key}.predictive.max_drop", terms.predictive.max_drop, grid)
    if terms.eq is not None:
        yield from _eq(f"{key}.eq", terms.eq, stage, grid)
    if terms.lmr is not None:
        yield from _lmr(f"{key}.lmr", lmr_shape(terms.lmr, stage.resolution), grid)
    if terms.se is not None and grid is not None:
        yield from _se(f"{key}.se.factors", terms.se, terms.eq, stage, grid)
    yield from _combinations(key, terms)


def _strengths(key: str, terms: TermsConfig, kind: TrainedStage) -> Iterator[Problem]:
    """Whose strength may be balanced at the encoder's last layer?"""
    frozen = kind is TrainedStage.decoder_finetune
    if frozen and terms.se is not None and terms.se.weight.policy is Policy.grad_ratio:
        remedy = "decoder_finetune freezes the encoder, at which norms are taken: use fixed, or se.stages=[pretrain]"
        yield Problem(f"{key}.se.weight.policy", "grad_ratio", remedy)
    if terms.kl is not None and terms.kl.weight.policy is not Policy.fixed:
        yield Problem(f"{key}.kl.weight.policy", "grad_ratio", "KL takes a fixed weight")
    if terms.predictive is not None and terms.predictive.motion.policy is not Policy.fixed:
        remedy = "a term on the reconstruction takes a fixed weight"
        yield Problem(f"{key}.predictive.motion.policy", "grad_ratio", remedy)


def _combinations(key: str, terms: TermsConfig) -> Iterator[Problem]:
    """Pairs that cannot work together."""
    predictive = terms.predictive
    if predictive is not None and terms.lcr is not None and terms.lcr.window[:1] != [1]:
        remedy = "predictive leaves any number of latent frames, which windows of several frames do not divide: use 1"
        yield Problem(f"{key}.lcr.window", str(list(terms.lcr.window)), remedy)
    if predictive is not None and terms.vf is not None:
        remedy = "vf compares every latent frame with the clip's features, and predictive drops some: take one away"
        yield Problem(f"{key}.vf", "with predictive", remedy)
    if terms.eq is not None and terms.lcr is not None and terms.eq.downscaled > 0:
        remedy = "scaled-down clips have latents that LCR's windows do not divide: set it to 0"
        yield Problem(f"{key}.eq.downscaled", f"{terms.eq.downscaled} with lcr", remedy)


def _share(key: str, value: float) -> Iterator[Problem]:
    if not 0.0 <= value <= 1.0:
        yield Problem(key, str(value), "must lie in [0, 1]")


def _vf(key: str, vf: VFConfig) -> Iterator[Problem]:
    if vf.model is None:
        remedy = "vf needs a DINOv2: a folder in transformers' format, or a name such as facebook/dinov2-large"
        yield Problem(f"{key}.model", "null", remedy)
    yield from _margins(key, vf)
    if vf.size <= 0 or vf.size % DINO_PATCH:
        yield Problem(f"{key}.size", str(vf.size), f"must be a multiple of {DINO_PATCH}, the network's patch")


def _predictive(key: str, max_drop: float, grid: Grid | None) -> Iterator[Problem]:
    yield from _share(key, max_drop)
    if grid is not None and 0 < max_drop <= 1 and int((grid[0] - 1) * max_drop) < 1:
        yield Problem(key, str(max_drop), f"drops nothing of {grid[0]} latent frames: raise it, or take longer clips")


def _margins(key: str, vf: VFConfig) -> Iterator[Problem]:
    for name in ("cos_margin", "distance_margin"):
        if not 0 <= getattr(vf, name) < 2:
            yield Problem(f"{key}.{name}", str(getattr(vf, name)), "must lie in [0, 2), the range of 1 - cosine")


def _eq(key: str, eq: EQConfig, stage: VaeStageConfig, grid: Grid | None) -> Iterator[Problem]:
    yield from _share(f"{key}.probability", eq.probability)
    yield from _share(f"{key}.downscaled", eq.downscaled)
    if len(eq.scales) != 2 or not 1 <= eq.scales[0] <= eq.scales[1] <= 32:
        yield Problem(f"{key}.scales", str(list(eq.scales)), "must be [least, largest], in 32nds, within [1, 32]")
    elif grid is not None:
        clip = stage.resolution
        sides = ((grid[1], clip.height), (grid[2], clip.width))
        smallest = min(max(1, round(side * eq.scales[0] / 32)) * (pixels // side) for side, pixels in sides)
        needed = smallest_pair(stage.objective, critic=True)
        if smallest < needed:
            remedy = (
                f"leaves {smallest} pixels, the objective needs {needed}: raise the least scale, or take larger clips"
            )
            yield Problem(f"{key}.scales", str(list(eq.scales)), remedy)
    if not eq.rotations or not all(0 <= turns <= 3 for turns in eq.rotations):
        yield Problem(f"{key}.rotations", str(list(eq.rotations)), "must be quarter turns out of 0, 1, 2, 3")


def _se(key: str, se: SEConfig, eq: EQConfig | None, stage: VaeStageConfig, grid: Grid) -> Iterator[Problem]:
    frames, height, width = grid
    if eq is not None and eq.downscaled > 0 and len(eq.scales) == 2:
        # The clip may have been scaled down before it is encoded.
        height, width = (max(1, round(side * eq.scales[0] / 32)) for side in (height, width))
    factors, clip = list(se.factors), stage.resolution
    if not factors or min(factors) < 2:
        yield Problem(key, str(factors), "must be whole numbers of at least 2")
        return
    if min(height, width) < min(factors) or (se.axes.value == "space_time" and frames - 1 < min(factors)):
        yield Problem(key, str(factors), f"none of them leaves a position of the latent grid {grid}")
        return
    ratio = clip.height // grid[1]
    smallest = min(max(1, side // max(factors)) * ratio for side in (height, width))
    needed = smallest_pair(stage.objective, critic=False)  # the critic is kept off this pair
    if smallest < needed:
        remedy = f"leaves {smallest} pixels, LPIPS needs {needed}: use smaller factors, or larger clips"
        yield Problem(key, str(factors), remedy)


def smallest_pair(objective: ObjectiveConfig, critic: bool) -> int:
    """Pixels a side that the objective needs of what it compares: LPIPS pools, the critic strides."""
    needed = 1 if objective.lpips.vgg is None else LPIPS_SMALLEST
    if critic and objective.critic is not None:
        needed = max(needed, 3 * 2**objective.critic.levels)
    return needed


def _lmr(key: str, lmr: LmrShape, grid: Grid | None) -> Iterator[Problem]:
    if len(lmr.ratios) != len(lmr.probabilities) or not lmr.ratios:
        yield Problem(
            f"{key}.probabilities", str(list(lmr.probabilities)), f"needs {len(lmr.ratios)} entries, as ratios"
        )
    elif abs(sum(lmr.probabilities) - 1.0) > 1e-6 or min(lmr.probabilities) < 0:
        yield Problem(f"{key}.probabilities", str(list(lmr.probabilities)), "must be shares that sum to 1")
    if any(not 0 <= ratio < 1 for ratio in lmr.ratios):
        yield Problem(f"{key}.ratios", str(list(lmr.ratios)), "must lie in [0, 1): 1 hides the whole latent")
    wrong = list(triple(f"{key}.block", lmr.block))
    yield from wrong
    if not wrong and grid is not None and any(side > size for side, size in zip(lmr.block, grid, strict=True)):
        yield Problem(f"{key}.block", str(list(lmr.block)), f"is larger than the latent grid {grid}")


def triple(key: str, values: list[int]) -> Iterator[Problem]:
    if len(values) != 3 or min(values) < 1:
        yield Problem(key, str(list(values)), "must be three positive numbers (t,h,w)")


def tiles(key: str, sides: list[int], grid: Grid | None, alone: int) -> Iterator[Problem]:
    """Do ``sides`` tile the grid? The first latent frame stands apart; ``alone``: later frames that an image has."""
    wrong = list(triple(key, sides))
    if wrong or grid is None:
        yield from wrong
        return
    frames, height, width = grid
    later = frames - 1 if frames > 1 else alone
    axes = (("later latent frames", later), ("latent height", height), ("latent width", width))
    for (axis, size), side in zip(axes, sides, strict=True):
        if size % side:
            yield Problem(key, str(list(sides)), f"{axis} {size} is not divisible by {side}: choose a divisor")


def window_problems(key: str, window: list[int], grid: Grid | None) -> Iterator[Problem]:
    yield from tiles(key, window, grid, alone=0)
    if len(window) == 3 and window[1] * window[2] == 1:
        yield Problem(key, str(list(window)), "needs two positions in space: frame 0 has no pairs otherwise")
