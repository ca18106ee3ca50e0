"""Rules of the group ``launch``: numbers that a queue can mean, and one way of running for all cells of a grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields

from ssvae.config.launch import JobsConfig, LaunchConfig, LaunchName, QueueConfig
from ssvae.config.problem import Problem

_LEAST = {"parallel": 1, "retries": 0, "array_size": 1}
_LEAST_OF_QUEUE = {
    "timeout_min": 1, "cpus_per_task": 1, "gpus_per_node": 0, "tasks_per_node": 1, "mem_gb": 1, "nodes": 1,
    "cpus_per_gpu": 1, "gpus_per_task": 1, "signal_delay_s": 0, "max_num_timeout": 0, "array_parallelism": 1,
}  # fmt: skip


def launch_checks(launch: LaunchConfig) -> Iterator[Problem]:
    """Problems of ``launch``; no scheduler is asked."""
    yield from _least("launch", launch, _LEAST)
    if launch.name is LaunchName.slurm and launch.parallel != 1:
        remedy = "is launch=local's; on Slurm launch.jobs.KIND.array_parallelism says how many run at once"
        yield Problem("launch.parallel", str(launch.parallel), remedy)
    # The same mistake in all kinds of work is one mistake.
    seen: set[tuple[str, str]] = set()
    for field in fields(JobsConfig):
        queue = getattr(launch.jobs, field.name)
        key = f"launch.jobs.{field.name}"
        for problem in (*_least(key, queue, _LEAST_OF_QUEUE), *_queue(key, queue)):
            name = problem.key.rpartition(".")[2]
            if (name, problem.value) not in seen:
                seen.add((name, problem.value))
                yield problem


def launched_together(launches: Sequence[LaunchConfig]) -> list[Problem]:
    """Cells of one grid run in one way."""
    if all(one == launches[0] for one in launches):
        return []
    found = [
        field.name for field in fields(LaunchConfig) if len({repr(getattr(one, field.name)) for one in launches}) > 1
    ]
    remedy = "is the same for all cells of a grid; run them as separate sweeps"
    if "name" in found:
        return [Problem("launch", " and ".join(dict.fromkeys(one.name.value for one in launches)), remedy)]
    return [Problem(f"launch.{name}", "several values", remedy) for name in found]


def _queue(key: str, queue: QueueConfig) -> Iterator[Problem]:
    if queue.signal_delay_s >= 60 * queue.timeout_min:
        remedy = f"comes before the job begins: its limit is {60 * queue.timeout_min} s ({key}.timeout_min)"
        yield Problem(f"{key}.signal_delay_s", str(queue.signal_delay_s), remedy)
    gpus, tasks = queue.gpus_per_node, queue.tasks_per_node
    if gpus and tasks > gpus:
        remedy = f"one rank has one GPU: at most gpus_per_node = {gpus}, or gpus_per_node=null for ranks on CPUs"
        yield Problem(f"{key}.tasks_per_node", str(tasks), remedy)
    if queue.mem_gb is not None and (queue.mem_per_cpu is not None or queue.mem_per_gpu is not None):
        yield Problem(f"{key}.mem_gb", str(queue.mem_gb), "Slurm takes one of mem_gb, mem_per_cpu, mem_per_gpu")
    reserved = {"dependency", "array", "requeue", "no-requeue", "output", "error", "open-mode", "kill-on-invalid-dep"}
    for name in sorted(reserved & {str(one).replace("_", "-") for one in queue.additional_parameters}):
        yield Problem(f"{key}.additional_parameters", name, "is set by the bench, which relies on it; leave it out")
    for name in sorted({"signal", "time", "nodes", "ntasks-per-node", "ntasks"} & {
        str(one).replace("_", "-") for one in queue.additional_parameters
    }):  # fmt: skip
        yield Problem(f"{key}.additional_parameters", name, "has a setting of its own in the queue; use that")


def _least(key: str, node: LaunchConfig | QueueConfig, least: dict[str, int]) -> Iterator[Problem]:
    for name, smallest in least.items():
        value = getattr(node, name)
        if value is not None and value < smallest:
            yield Problem(f"{key}.{name}", str(value), f"must be at least {smallest}")
