"""Run one stage in its folder, once, whoever asks: lock, provenance, the work, the mark that it is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import yaml

from ssvae.config.data import DataConfig
from ssvae.config.tree import Config
from ssvae.core.files import Busy, exclusive, read_json, remove_leftovers, write_json, write_text
from ssvae.core.heartbeat import FILE, Heartbeat
from ssvae.core.identity import provenance
from ssvae.core.paths import PROJECT
from ssvae.core.progress import Progress
from ssvae.core.ranks import ALONE, Ranks
from ssvae.core.stop import ELSEWHERE, NEVER, Stop, Stoppable
from ssvae.core.system_metrics import SystemSampler
from ssvae.stages import decoder_finetune, dit, latents, measure, pretrain, probe
from ssvae.stages.plan import ENCODING, TRAINING, StagePlan, latent_weights
from ssvae.stages.shared_batch import uneven_batches
from ssvae.stages.source import Source
from ssvae.stages.trained import Training, vae_folder
from ssvae.train.state import drop_checkpoint

Outcome = Literal["reused", "resumed", "computed"]
POLL_S = 0.5
"""Between two looks at a lock that somebody else holds."""


@dataclass(frozen=True)
class Job:
    """Everything a stage works with. plans: the cell's stages by name. sources: a data config -> its clips. stop: where
    a signal asks for the end."""

    cfg: Config
    plan: StagePlan
    plans: Mapping[str, StagePlan]
    sources: Callable[[DataConfig], Source]
    root: Path
    progress: Progress
    ranks: Ranks = ALONE
    stop: Stop = NEVER


def execute(job: Job, *, wait: bool) -> Outcome:
    """Compute ``job.plan`` unless it is finished. With several ranks every one of them calls this.

    Raises core.files.Busy if another process is at it and ``wait`` is false; ValueError, before anything is written,
    for batches that the ranks cannot share; core.stop.Interrupted once it was asked to stop; and whatever the stage
    raises. Then the folder keeps what was saved, and the next call goes on from there.
    """
    if not job.ranks.first:
        return _follow(job)
    plan = job.plan
    if plan.finished:
        return job.ranks.share("reused")
    if problem := _uneven(job):
        job.ranks.share("uneven")
        raise ValueError(problem)
    with _lock(job, wait):
        if plan.finished:
            return job.ranks.share("reused")
        outcome: Outcome = "resumed" if plan.started else "computed"
        _open(job)
        job.ranks.share(outcome)
        begun = time.monotonic()
        before = _spent(plan.folder)
        try:
            _sampled(job)
        finally:
            write_json(plan.folder / "spent.json", {"seconds": before + time.monotonic() - begun})
        for told in ("error.txt", FILE):
            (plan.folder / told).unlink(missing_ok=True)
        write_json(plan.folder / "done.json", {"seconds": _spent(plan.folder), "id": plan.id})
        # Last: a kill between the two must not cost the whole stage.
        drop_checkpoint(plan.folder)
    job.ranks.wait()
    return outcome


@contextmanager
def _lock(job: Job, wait: bool) -> Iterator[None]:
    """Hold the stage's lock. A first rank that does not get it says so to the others, who wait for its word."""
    with ExitStack() as held:
        while True:
            if job.stop.asked:
                job.ranks.share("stopped")
                raise job.stop.interrupt()
            try:
                held.enter_context(exclusive(job.plan.lock, wait=False))
                break
            except Busy:
                if not wait:
                    job.ranks.share("busy")
                    raise
            time.sleep(POLL_S)
        yield


def _follow(job: Job) -> Outcome:
    """What the other ranks do: work along, leave writing (and all of encoding) to the first one, and wait for it."""
    outcome: Outcome | Literal["uneven", "busy", "stopped"] = job.ranks.share("reused")
    if outcome == "uneven":
        raise ValueError(_uneven(job))
    if outcome == "busy":
        raise Busy(str(job.plan.lock))
    if outcome == "stopped":
        job.stop.ask(ELSEWHERE)
        raise job.stop.interrupt()
    if outcome == "reused":
        return outcome
    if job.plan.name not in ENCODING:
        _sampled(job)
    job.ranks.wait()
    return outcome


def _sampled(job: Job) -> None:
    """The work, with this rank's machine on record beside it."""
    with SystemSampler(job.plan.folder, job.ranks.rank, job.cfg.track.system_every_s) as sampler:
        _run(replace(job, progress=sampler.watched(job.progress)))


def _uneven(job: Job) -> str:
    return "; ".join(uneven_batches(job.cfg, job.plan.name, job.ranks.world))


def _open(job: Job) -> None:
    plan = job.plan
    plan.folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(plan.folder)
    write_text(plan.folder / "config.yaml", yaml.safe_dump(dict(plan.science), sort_keys=True))
    record = plan.folder / "run.json"
    attempts = read_json(record)["attempts"] + 1 if record.exists() else 1
    created = read_json(record)["created_ms"] if record.exists() else int(time.time() * 1000)
    write_json(
        record,
        {
            "stage": plan.name,
            "id": plan.id,
            "created_ms": created,
            "attempts": attempts,
            "seed": job.cfg.seed,
            "parents": dict(plan.parents),
            **provenance(PROJECT),
        },
    )


def _spent(folder: Path) -> float:
    path = folder / "spent.json"
    return float(read_json(path)["seconds"]) if path.exists() else 0.0


def _run(job: Job) -> None:
    cfg, plan, folder, stop = job.cfg, job.plan, job.plan.folder, job.stop
    folders = {name: other.folder for name, other in job.plans.items()}
    score = cfg.stages.measure.score
    beating: Progress = Heartbeat(job.progress, folder / FILE) if job.ranks.first else job.progress
    # Trainings ask at step boundaries. Other stages have no state to bring into order, and keep the pieces they have
    # finished: each rank stops by itself, which may leave others waiting for it, but the whole job is about to end.
    stopping = Stoppable(beating, stop)
    if plan.name in TRAINING:
        stage = getattr(cfg.stages, plan.name)
        assert stage is not None
        training = Training(stage, cfg.runtime, cfg.seed, job.sources, folder, beating, stop)
        if plan.name == "decoder_finetune":
            decoder_finetune.run(training, folders["pretrain"])
        else:
            pretrain.run(training, cfg.vae, folders.get("base") if plan.name == "pretrain" else None)
        return
    finished = cfg.vae.weights
    decoder = finished if finished is not None else vae_folder(folders[score.trained.value], score.weights.value)
    if plan.name == "measure":
        measure.run(
            stage=cfg.stages.measure, sources=job.sources, vae=decoder, finished=finished is not None, folder=folder,
            samples=cfg.track.samples, progress=stopping, ranks=job.ranks,
        )  # fmt: skip
        return
    name, _, ending = plan.name.partition("_")
    stage = cfg.stages.probe_base if ending else cfg.stages.probe
    assert stage is not None
    cached = folders[f"latents_{ending}" if ending else "latents"]
    caches = job.root / "runs" / "cache"
    if name == "latents":
        encoder = finished if finished is not None else vae_folder(folders["pretrain"], latent_weights(score).value)
        told = str(plan.science.get("vae") or f"{folders['pretrain'].name} {latent_weights(score).value}")
        latents.run(stage=stage, vae=encoder, told=told, sources=job.sources, folder=folder, progress=stopping)
    elif name == "dit":
        base = None if ending else folders.get("dit_base")
        dit.run(
            stage=stage, runtime=cfg.runtime, seed=cfg.seed, latents=cached, base=base, caches=caches, folder=folder,
            progress=beating, stop=stop,
        )  # fmt: skip
    else:
        assert name == "probe", plan.name
        probe.run(
            stage=stage, seed=cfg.seed, sources=job.sources, vae=decoder, latents=cached, trained=folders["dit"],
            caches=caches, folder=folder, samples=cfg.track.samples, progress=stopping,
        )  # fmt: skip
