"""Group ``launch``: where cells run. Nothing here is part of a stage's identity.

``launch.jobs`` holds one queue a kind of work, in the terms of hydra-submitit-launcher (its class ``SlurmQueueConf``):
what its users know means the same here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from omegaconf import MISSING


class LaunchName(Enum):
    """``local``: on this machine; ``slurm``: as Slurm jobs, through submitit."""

    local = "local"
    slurm = "slurm"


@dataclass
class QueueConfig:
    """What one job asks for. One task is one rank.

    The first block is what a job of any launcher has; the rest is Slurm's. setup: shell lines of the user's own, run on
    the first node before the ranks start.
    """

    timeout_min: int = MISSING
    cpus_per_task: int | None = MISSING
    gpus_per_node: int | None = MISSING
    tasks_per_node: int = MISSING
    mem_gb: int | None = MISSING  # a node
    nodes: int = MISSING
    stderr_to_stdout: bool = MISSING

    partition: str | None = MISSING
    qos: str | None = MISSING
    comment: str | None = MISSING
    constraint: str | None = MISSING
    exclude: str | None = MISSING
    gres: str | None = MISSING
    cpus_per_gpu: int | None = MISSING
    gpus_per_task: int | None = MISSING
    mem_per_gpu: str | None = MISSING
    mem_per_cpu: str | None = MISSING
    account: str | None = MISSING
    signal_delay_s: int = MISSING  # how long before the limit the job is told to save
    max_num_timeout: int = MISSING  # how often it may go on after its limit; pre-emptions are not counted
    additional_parameters: dict[str, Any] = MISSING  # anything else that sbatch knows
    array_parallelism: int = MISSING  # jobs of one array that run at once
    setup: list[str] | None = MISSING

    @property
    def world(self) -> int:
        """Ranks."""
        return self.nodes * self.tasks_per_node


@dataclass
class JobsConfig:
    """One queue a kind of work. base goes with pretrain; latents and transformer with probe."""

    pretrain: QueueConfig = MISSING
    decoder_finetune: QueueConfig = MISSING
    measure: QueueConfig = MISSING
    probe: QueueConfig = MISSING

    def of(self, stage: str) -> QueueConfig:
        """The queue of a stage."""
        queue = getattr(self, KINDS[stage])
        assert isinstance(queue, QueueConfig)
        return queue


@dataclass
class LaunchConfig:
    name: LaunchName = MISSING
    parallel: int = MISSING  # local: jobs at once; 1: in this process, but for detach and several ranks
    retries: int = MISSING  # how often a job that died is tried again
    fail_fast: bool = MISSING  # the first failure ends the whole sweep
    detach: bool = MISSING  # return after submission
    preflight: bool = MISSING  # check the machine before a job's first stage
    array_size: int = MISSING  # jobs in one Slurm array at most
    partition: str | None = MISSING  # these six are what every job of ``jobs`` has unless it says otherwise
    account: str | None = MISSING
    qos: str | None = MISSING
    constraint: str | None = MISSING
    exclude: str | None = MISSING
    setup: list[str] | None = MISSING
    jobs: JobsConfig = MISSING


KINDS: Mapping[str, str] = {
    "base": "pretrain",
    "pretrain": "pretrain",
    "decoder_finetune": "decoder_finetune",
    "measure": "measure",
    "latents_base": "probe",
    "dit_base": "probe",
    "latents": "probe",
    "dit": "probe",
    "probe": "probe",
}
"""Which queue a stage goes to."""
