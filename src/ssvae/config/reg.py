"""Group ``reg``: one combination of latent regularisers; group ``reg/term``: one ingredient each.

``reg.terms.<name>`` is one optional typed field a regulariser, so terms compose on the command line:
``+reg/term@reg.terms.lmr=lmr`` adds one, ``reg.terms.lcr=null`` takes one away. The order of the fields is the order
in which regularisers act. ``stages`` says in which training stages a term is present at all.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum

from omegaconf import MISSING

from ssvae.config.resolution import LmrShape, ResolutionConfig


class Policy(Enum):
    """How strongly a term pulls (see objective/weighting.py)."""

    fixed = "fixed"
    grad_ratio = "grad_ratio"


class TrainedStage(Enum):
    """A stage that trains weights. The common base counts as ``pretrain``."""

    pretrain = "pretrain"
    decoder_finetune = "decoder_finetune"


@dataclass
class WeightConfig:
    """``fixed``: value x term. ``grad_ratio``: gradient norm at the encoder's last layer = value x that of the NLL."""

    policy: Policy = MISSING
    value: float = MISSING


class KLReduction(Enum):
    """``sum``: nats over all latent dimensions (official code). ``mean``: nats a dimension, counted once for every
    value of the clip, so that beta compares with a likelihood taken per value (see regularizers/kl.py)."""

    sum = "sum"
    mean = "mean"


@dataclass
class KLConfig:
    """KL to N(0, I), mean over the batch. The betas of the two reductions are not comparable."""

    stages: list[TrainedStage] = MISSING
    weight: WeightConfig = MISSING
    reduction: KLReduction = MISSING


class LCRAverage(Enum):
    """How first and later frames combine: each half, or weighted by latent frames or by windows."""

    mean = "mean"
    frames = "frames"
    windows = "windows"


@dataclass
class LCRConfig:
    """Local correlation regularisation: hinge below ``threshold`` of the windowed correlation."""

    stages: list[TrainedStage] = MISSING
    weight: WeightConfig = MISSING
    threshold: float = MISSING
    window: list[int] = MISSING  # (t,h,w) in latent positions
    average: LCRAverage = MISSING


class CovarianceForm(Enum):
    """What is penalised of the channel eigenvalues (see regularizers/cov.py); all three are of this project."""

    top_share = "top_share"
    participation = "participation"
    entropy = "entropy"


@dataclass
class CovConfig:
    """Covariance penalty that pulls latents towards few channel modes."""

    stages: list[TrainedStage] = MISSING
    weight: WeightConfig = MISSING
    form: CovarianceForm = MISSING
    modes: int = MISSING  # K of top_share; the other forms do not look at it


@dataclass
class VFConfig:
    """VA-VAE's alignment of latents with the features of a frozen DINOv2."""

    stages: list[TrainedStage] = MISSING
    weight: WeightConfig = MISSING
    model: str | None = MISSING  # folder of a DINOv2 in transformers' format, or its name on the hub; null: an error
    size: int = MISSING  # pixels a side that a frame is resized to for the network
    cos_margin: float = MISSING
    distance_margin: float = MISSING


class Padding(Enum):
    """What stands in for dropped latent frames: one learned token, or Gaussian noise."""

    learned = "learned"
    gaussian = "gaussian"


@dataclass
class PredictiveConfig:
    """Predictive reconstruction: the clip's end is dropped before encoding, and decoded all the same."""

    stages: list[TrainedStage] = MISSING
    max_drop: float = MISSING  # r: at most floor((latent frames - 1)·r) latent frames are dropped
    padding: Padding = MISSING
    motion: WeightConfig = MISSING  # of the frame-difference term


@dataclass
class NoiseConfig:
    """Gaussian noise on the latent that the decoder receives."""

    stages: list[TrainedStage] = MISSING
    variance: float = MISSING  # in units of the raw latent


@dataclass
class EQConfig:
    """EQ-VAE: latent and target are scaled and rotated together."""

    stages: list[TrainedStage] = MISSING
    probability: float = MISSING  # share of steps that transform
    scales: list[int] = MISSING  # [least, largest] scale in 32nds of the size, both included
    rotations: list[int] = MISSING  # quarter turns, one of them drawn
    downscaled: float = MISSING  # share of the other steps whose clip is scaled down before encoding


@dataclass
class LMRConfig:
    """Latent masked reconstruction: blocks of the sampled latent replaced by a learned token.

    Null values are those of the stage's resolution.
    """

    stages: list[TrainedStage] = MISSING
    ratios: list[float] | None = MISSING
    probabilities: list[float] | None = MISSING
    block: list[int] | None = MISSING


class SEAxes(Enum):
    """What is scaled down: height and width, or time as well."""

    space = "space"
    space_time = "space_time"


@dataclass
class SEConfig:
    """Scale equivariance: the latent, scaled down, decodes to the clip, scaled down."""

    stages: list[TrainedStage] = MISSING
    weight: WeightConfig = MISSING
    factors: list[int] = MISSING  # one is drawn each step
    axes: SEAxes = MISSING


@dataclass
class TermsConfig:
    """One optional field a regulariser; null: absent. Terms on the posterior come first, then what changes the latent
    before it is decoded, in the order in which it does so."""

    kl: KLConfig | None = None
    lcr: LCRConfig | None = None
    cov: CovConfig | None = None
    vf: VFConfig | None = None
    predictive: PredictiveConfig | None = None
    noise: NoiseConfig | None = None
    eq: EQConfig | None = None
    lmr: LMRConfig | None = None
    se: SEConfig | None = None


@dataclass
class RegConfig:
    name: str = MISSING
    terms: TermsConfig = MISSING


@dataclass
class StrengthConfig:
    """The numbers that an experiment sets for every regulariser term at once; ``note`` is printed under the table."""

    kl: float = MISSING
    lcr: float = MISSING
    cov: float = MISSING
    note: str = MISSING


def lmr_shape(lmr: LMRConfig, resolution: ResolutionConfig) -> LmrShape:
    """Ratios, probabilities and block that act: its own, or those of the stage's resolution."""
    own, given = resolution.lmr, lmr
    return LmrShape(
        ratios=own.ratios if given.ratios is None else given.ratios,
        probabilities=own.probabilities if given.probabilities is None else given.probabilities,
        block=own.block if given.block is None else given.block,
    )


def terms_in(terms: TermsConfig, stage: TrainedStage) -> TermsConfig:
    """The terms that are present in ``stage``."""
    present = {field.name: getattr(terms, field.name) for field in fields(terms)}
    return TermsConfig(**{name: term for name, term in present.items() if term is not None and stage in term.stages})
