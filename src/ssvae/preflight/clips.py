"""Are the data there, the same for all ranks, and can clips be decoded?"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ssvae.config.data import DataConfig
from ssvae.config.resolution import ResolutionConfig
from ssvae.data.mix import select
from ssvae.data.pixels import ClipError
from ssvae.data.reader import WindowReader
from ssvae.preflight.base import Crew, Facts, Needs, Problem, Verdict, differing
from ssvae.stages.source import Source

TRIES = 4
"""Clips that a rank tries; one that cannot be used is left out in a run, too."""
_CONFIGS = {"latents_base": "probe_base", "dit_base": "probe_base", "latents": "probe", "dit": "probe"}
"""Where the settings of a stage are that does not have its own."""


def data_sets(needs: Needs) -> list[tuple[DataConfig, ResolutionConfig]]:
    """What the job's stages read, each pair of data set and clip shape once."""
    found: dict[str, tuple[DataConfig, ResolutionConfig]] = {}
    for cfg in needs.cells:
        for name in needs.stages_of(cfg):
            stage = getattr(cfg.stages, _CONFIGS.get(name, name))
            if stage is not None:
                found.setdefault(repr((stage.data, stage.resolution)), (stage.data, stage.resolution))
    return list(found.values())


def measure_data(needs: Needs, rank: int) -> Facts:
    """Open each data set and decode a clip of it, and an image where it has some; each rank begins at another one."""
    problems, warnings, seconds = [], [], []
    sets: dict[str, Facts] = {}
    labels: dict[str, str] = {}
    for data, resolution in data_sets(needs):
        try:
            source = needs.sources(data)
        except ValueError as error:
            told, _, remedy = str(error).rpartition("; ")
            problems.append([told or remedy, remedy if told else "make it readable on every node"])
            continue
        name = labels.setdefault(repr(data), _label(data, len(labels)))
        sets[name] = {"content": source.fingerprint, "text of captions": source.conditions, "clips": len(source.train)}
        for kind in ("video", "image"):
            found = _decode(source, kind, resolution, rank)
            if found is None:
                continue
            if found["seconds"] is None:
                text = f"data {name}: {len(found['failed'])} of {len(found['failed'])} {kind} samples cannot be used"
                remedy = "see that they are whole, and long enough for resolution.frames at resolution.fps"
                problems.append([f"{text} ({', '.join(found['failed'])})", remedy])
                continue
            seconds.append(found["seconds"])
            if found["failed"]:
                text = f"data {name}: {kind} samples cannot be used ({', '.join(found['failed'])})"
                warnings.append([text, "the run leaves such out and counts them, up to data.reject_share"])
    return {"sets": sets, "seconds": seconds, "problems": problems, "warnings": warnings}


def _label(data: DataConfig, others: int) -> str:
    name = data.path or data.kind.value
    return f"{name} ({others + 1})" if others else name


def _decode(source: Source, kind: Any, resolution: ResolutionConfig, rank: int) -> dict[str, Any] | None:
    """{"seconds": of the first sample that can be used or None, "failed": those before it}; None: has no such."""
    index = source.index if kind == "video" else source.images
    keys = source.train if kind == "video" else source.train_images
    if index is None or not keys:
        return None
    # Spread over the whole set: a folder of shards may be missing on one node.
    places = [(rank + number * len(keys) // TRIES) % len(keys) for number in range(TRIES)]
    reader = WindowReader(
        frames=resolution.frames, fps=resolution.fps, size=(resolution.height, resolution.width), cache_mb=0
    )
    failed = []
    for sample in select(index, [keys[place] for place in dict.fromkeys(places)], kind):
        begun = time.perf_counter()
        try:
            if kind == "video":
                reader.window(sample, 0.5)
            else:
                reader.picture(sample)
        except (ClipError, OSError) as error:
            failed.append(f"{sample.key}: {error.reason if isinstance(error, ClipError) else error.strerror}")
        else:
            return {"seconds": time.perf_counter() - begun, "failed": failed}
    return {"seconds": None, "failed": failed}


def judge_data(answers: Mapping[int, Facts], crew: Crew) -> Verdict:
    """Do all ranks see the same content?"""
    problems = []
    names = dict.fromkeys(name for facts in answers.values() for name in facts["sets"])
    remedy = "give every node the same files: one shared file system, or copies made anew"
    for name in names:
        for what in ("content", "text of captions"):
            values = {rank: facts["sets"][name][what][:12] for rank, facts in answers.items() if name in facts["sets"]}
            if (text := differing(crew, values)) is not None:
                problems.append(Problem(f"data {name}: the {what} differs between ranks: {text}", remedy))
    clips = max((facts["sets"][name]["clips"] for facts in answers.values() for name in facts["sets"]), default=0)
    slowest = max((second for facts in answers.values() for second in facts["seconds"]), default=0.0)
    sets = f"{len(names)} data set{'s' if len(names) != 1 else ''} ({', '.join(names)})"
    return Verdict(f"{sets}, up to {clips} training clips, a clip in at most {slowest:.3f} s", problems, [])
