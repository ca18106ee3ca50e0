"""Pictures and videos of a run folder under the names that MLflow's pages group and step through.

MLflow's image grid shows ``images/<key>+step+<n>+timestamp+<ms>+<id>.png`` together with a small copy of the same name
that ends in ``+compressed.webp``; ``~`` stands for a slash in the key (mlflow.log_image, MLflow 3.17). Any other name
in that folder is an error for the page. Videos play in the list of artifacts as they are, so they go to
``videos/<stage>/<name>/step_<n>.mp4``, and a still of each goes into the grid. All names follow from the run folder, so
a file that is sent again lands on itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from PIL import Image

from ssvae.track.folder import fingerprint, last_step

SMALL_SIDE = 256
"""Longer side of the small copies, in pixels: as MLflow makes them."""
_TRAINED = ("dit", "decoder_finetune", "pretrain", "dit_base", "base")
"""Whose training a score's pictures show: the first of them among the stage's parents."""
_STEP = re.compile(r"[_-]?step[_-]?(\d+)")


class Unreadable(Exception):
    """A picture or video that cannot be opened."""


@dataclass(frozen=True, slots=True)
class Upload:
    """One artifact. source: file in the run folder; where, name: folder and file name in the tracker; mark: changes
    whenever the source is written again; make: fills a file from the source, None to send the source itself."""

    source: Path
    where: str
    name: str
    mark: str
    make: Callable[[Path, Path], None] | None = None


def uploads(stage: str, folder: Path, created: int) -> list[Upload]:
    """Everything of a run folder that is worth copying, sorted. created: of the folder, milliseconds since 1970."""
    texts = [folder / name for name in ("config.yaml", "metrics.json", "error.txt")]
    found = [Upload(path, f"stages/{stage}", path.name, fingerprint(path)) for path in texts if path.is_file()]
    pictures = sorted([*folder.glob("*.png"), *folder.glob("figures/*.png"), *folder.glob("samples/*.png")])
    videos = sorted(folder.glob("samples/*.mp4"))
    step: int | None = None
    # A name that starts with a dot is an unfinished atomic write.
    for path in [one for one in (*pictures, *videos) if one.is_file() and not one.name.startswith(".")]:
        step = media_step(folder) if step is None else step
        name, at = _named(path.stem, step)
        mark, still = fingerprint(path), path.suffix == ".mp4"
        if still:
            found.append(Upload(path, f"videos/{stage}/{name}", f"step_{at:08d}.mp4", mark))
        begin = grid_name(f"{stage}/{name}", at, created + at, f"{folder.name}/{path.relative_to(folder)}")
        found.append(Upload(path, "images", f"{begin}.png", mark, _still if still else None))
        found.append(Upload(path, "images", f"{begin}+compressed.webp", mark, _small_still if still else _small))
    return found


def media_step(folder: Path) -> int:
    """The step that the pictures of a stage show: of its own training, else of the one it scores; 0 without any."""
    own = last_step(folder / "steps.jsonl")
    if own is not None:
        return own
    record = folder / "run.json"
    parents = json.loads(record.read_text(encoding="utf-8")).get("parents", {}) if record.exists() else {}
    for name in _TRAINED:
        if name in parents:
            return last_step(folder.parent / f"{name}-{parents[name]}" / "steps.jsonl") or 0
    return 0


def grid_name(key: str, step: int, time_ms: int, origin: str) -> str:
    """Name, without its ending, that puts a picture into MLflow's image grid. origin: says what the id is made of."""
    plain = re.sub(r"[^A-Za-z0-9_\-. /]", "_", key).replace("/", "~")
    return f"{plain}+step+{step}+timestamp+{time_ms}+{uuid5(NAMESPACE_URL, origin)}"


def _named(stem: str, step: int) -> tuple[str, int]:
    """(name, step) of a file: ``clip_step_000100`` says its step itself."""
    told = _STEP.search(stem)
    if told is None:
        return stem, step
    return (stem[: told.start()] + stem[told.end() :]).strip("_-") or "step", int(told.group(1))


def _small(source: Path, target: Path) -> None:
    try:
        with Image.open(source) as picture:
            _save_small(picture, target)
    except (OSError, SyntaxError) as error:  # PIL's own word for a broken PNG
        raise Unreadable(f"{source}: {error}") from error


def _still(source: Path, target: Path) -> None:
    _middle(source).save(target, format="PNG")


def _small_still(source: Path, target: Path) -> None:
    _save_small(_middle(source), target)


def _save_small(picture: Image.Image, target: Path) -> None:
    small = picture.convert("RGBA" if "A" in picture.getbands() else "RGB")
    scale = SMALL_SIDE / max(small.size)
    small.resize((max(1, round(small.width * scale)), max(1, round(small.height * scale)))).save(target, format="WEBP")


def _middle(source: Path) -> Image.Image:
    """The frame in the middle of a video."""
    import av

    try:
        with av.open(str(source)) as container:
            frames = [frame.to_image() for frame in container.decode(video=0)]
    except (OSError, ValueError, IndexError) as error:  # PyAV's errors are of these kinds
        raise Unreadable(f"{source}: {error}") from error
    if not frames:
        raise Unreadable(f"{source}: no frame")
    picture: Image.Image = frames[len(frames) // 2]
    return picture
