"""Group ``reg``: one combination of latent regularisers; group ``reg/term``: one ingredient each.

``reg.terms.<name>`` is one optional typed field a regulariser, so terms compose on the command line:
``+reg/term@reg.terms.lmr=lmr`` adds one, ``reg.terms.lcr=null`` takes one away.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from omegaconf import MISSING


class Policy(Enum):
    """How strongly a term pulls (see objective/weighting.py)."""

    fixed = "fixed"
    grad_ratio = "grad_ratio"


@dataclass
class WeightConfig:
    """``fixed``: value x term. ``grad_ratio``: gradient norm at the encoder's last layer = value x that of the NLL."""

    policy: Policy = MISSING
    value: float = MISSING


@dataclass
class KLConfig:
    """KL to N(0, I), summed over dimensions, mean over the batch."""

    weight: WeightConfig = MISSING


@dataclass
class LCRConfig:
    """Local correlation regularisation: hinge below ``threshold`` of the windowed correlation."""

    weight: WeightConfig = MISSING
    threshold: float = MISSING
    window: list[int] = MISSING  # (t,h,w) in latent positions


@dataclass
class LMRConfig:
    """Latent masked reconstruction: blocks of the sampled latent replaced by a learned token."""

    ratios: list[float] = MISSING
    probabilities: list[float] = MISSING
    block: list[int] = MISSING


@dataclass
class TermsConfig:
    """One optional field a regulariser; null: absent."""

    kl: KLConfig | None = None
    lcr: LCRConfig | None = None
    lmr: LMRConfig | None = None


@dataclass
class RegConfig:
    name: str = MISSING
    label: str = MISSING
    terms: TermsConfig = MISSING


@dataclass
class StrengthConfig:
    """The numbers that an experiment sets for every regulariser term at once; ``note`` is printed under the table."""

    kl: float = MISSING
    lcr: float = MISSING
    note: str = MISSING
