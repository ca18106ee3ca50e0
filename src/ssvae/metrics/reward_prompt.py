"""What the reward model is asked: role, dimensions, scale, the block to answer with, and the clip's own prompt last.

Two questions follow the published UnifiedReward ones (Wang et al. 2025, arXiv 2503.05236, pointwise video):

``v1``: five dimensions from 1 to 4 and a final score from 1 to 10, ending in ``Text Prompt: [...]``.
``v2``: alignment, physics and style from 1 to 5 (fractions allowed), ending in ``Text Caption: [...]``.

Structure, labels and scales are the published ones; the sentences are ours. Scores of two wordings are not comparable,
so the protocol carries the template's hash. A file with another wording (the published sentences, say) can be given.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

RewardVersion = Literal["v1", "v2"]
SLOT = "{prompt}"
"""Where a template takes the clip's prompt."""


@dataclass(frozen=True, slots=True)
class Scale:
    """One line of the demanded answer. name: of the metric, behind ``reward_``. label: as the answer writes it.

    low, high: the allowed range, ends included. whole: only integers are allowed.
    """

    name: str
    label: str
    low: float
    high: float
    whole: bool


@dataclass(frozen=True, slots=True)
class Question:
    """One way to ask. dimensions: their mean is the headline. final: the overall score beside it, where there is one.

    frames: how many the publication shows. template: the text, with :data:`SLOT` once.
    """

    version: RewardVersion
    dimensions: tuple[Scale, ...]
    final: Scale | None
    frames: int
    template: str

    def __post_init__(self) -> None:
        if (count := self.template.count(SLOT)) != 1:
            raise ValueError(
                f"reward.template: holds {SLOT} {count} times; it must stand there once, where the prompt goes"
            )

    @property
    def scales(self) -> tuple[Scale, ...]:
        """Every line that the answer must hold."""
        return self.dimensions if self.final is None else (*self.dimensions, self.final)

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the template."""
        return hashlib.sha256(self.template.encode()).hexdigest()

    def ask(self, prompt: str) -> str:
        """The text that follows the frames. Braces and brackets of ``prompt`` stay as they are."""
        return self.template.replace(SLOT, prompt)


def reward_question(version: RewardVersion, template: str | None = None) -> Question:
    """The question of ``version``, in our wording or in that of ``template``.

    Raises ValueError for an unknown version and for a template that does not hold ``{prompt}`` exactly once.
    """
    if version not in QUESTIONS:
        raise ValueError(f"reward.version = {version!r}: must be one of {', '.join(QUESTIONS)}")
    known = QUESTIONS[version]
    if template is None:
        return known
    return Question(known.version, known.dimensions, known.final, known.frames, template)


_V1 = """\
You are an experienced judge of videos that were made by a generative model. The pictures above are frames of one \
such video, in order of time. Below is the text prompt that the video was made from.

Rate the video in five dimensions:
(1) visual quality: sharpness, resolution, exposure and colour of the pictures
(2) temporal consistency: objects and people stay the same from frame to frame
(3) dynamic degree: how much happens and moves
(4) text-to-video alignment: the video shows what the text prompt says
(5) factual consistency: the video agrees with common sense and with facts

For each dimension give one integer from 1 to 4: 1 is Bad, 2 is Average, 3 is Good, 4 is Real or Perfect, like a \
recorded video. Then give an overall score from 1 to 10.

Answer in exactly this form, with a number in place of each n:
visual quality: n
temporal consistency: n
dynamic degree: n
text-to-video alignment: n
factual consistency: n
Final Score: n

Text Prompt: [{prompt}]"""

_V2 = """\
The pictures above are frames of one generated video, in order of time. Below is the text caption that belongs to it. \
Judge the video along three axes, each from 1 (worst) to 5 (best); fractions are allowed:
- Alignment Score: the content of the video is what the caption says.
- Physics Score: gravity, motion, collisions and interactions are physically plausible.
- Style Score: the video is pleasing to look at, whether or not it fits the caption.

Answer in exactly this form, with a number in place of each letter:
Alignment Score (1-5): X
Physics Score (1-5): Y
Style Score (1-5): Z

Text Caption: [{prompt}]"""

QUESTIONS: dict[str, Question] = {
    "v1": Question(
        version="v1",
        dimensions=(
            Scale("visual_quality", "visual quality", 1, 4, True),
            Scale("temporal_consistency", "temporal consistency", 1, 4, True),
            Scale("dynamic_degree", "dynamic degree", 1, 4, True),
            Scale("alignment", "text-to-video alignment", 1, 4, True),
            Scale("factual_consistency", "factual consistency", 1, 4, True),
        ),
        # Trained on labels of the dimensions only: the final score is the base model's own habit (the authors' advice
        # is to use the dimensions), so it is reported beside the headline, never in it.
        final=Scale("final", "Final Score", 1, 10, False),
        frames=8,
        template=_V1,
    ),
    "v2": Question(
        version="v2",
        dimensions=(
            Scale("alignment", "Alignment Score", 1, 5, False),
            Scale("physics", "Physics Score", 1, 5, False),
            Scale("style", "Style Score", 1, 5, False),
        ),
        final=None,
        frames=16,
        template=_V2,
    ),
}
