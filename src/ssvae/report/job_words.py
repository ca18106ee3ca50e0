"""Slurm's words for why a job waits or ended, in plain ones. Its own word always stands beside."""

from __future__ import annotations

from ssvae.core.queue import QueueState

_WAITS = {
    "Resources": "for free resources",
    "Priority": "for jobs before it",
    "Dependency": "for jobs that it needs",
    "BeginTime": "for its start time; after a requeue Slurm waits a moment",
    "JobArrayTaskLimit": "for its turn, array_parallelism run at once",
    "JobHeldUser": "held: scontrol release {id}",
    "JobHeldAdmin": "held by an administrator",
    "Licenses": "for licences",
    "ReqNodeNotAvail": "for nodes that are not available",
    "Reservation": "for its reservation",
    "PartitionDown": "for its partition, which is down",
    "PartitionInactive": "for its partition, which is inactive",
    "PartitionTimeLimit": "in vain: it asks for more time than its partition allows",
    "PartitionNodeLimit": "in vain: it asks for more nodes than its partition allows",
    "BadConstraints": "in vain: no node is as it asks for",
    "DependencyNeverSatisfied": "in vain: a job that it needs has failed",
    "Cleaning": "for the end of its last attempt",
}
_ENDS = {
    "OUT_OF_MEMORY": "out of memory",
    "TIMEOUT": "the time limit",
    "DEADLINE": "its deadline",
    "CANCELLED": "cancelled",
    "PREEMPTED": "pre-empted",
    "NODE_FAIL": "its node failed",
    "BOOT_FAIL": "its node did not boot",
    "REVOKED": "revoked",
}
LIVE = {
    "CONFIGURING": "its nodes are being made ready",
    "SUSPENDED": "suspended by Slurm",
    "STOPPED": "stopped by Slurm",
    "COMPLETING": "ending",
    "STAGE_OUT": "ending",
    "SIGNALING": "being told to stop",
    "RESIZING": "being resized",
    "RUNNING": "",
}
"""States in which a job has its nodes, with a note."""


def waits_for(state: QueueState, job: str) -> str:
    """Why ``job`` waits, such as ``for free resources (Resources), start expected 2026-11-21T12:06:11``."""
    if state.state in ("REQUEUE_HOLD", "SPECIAL_EXIT"):
        return f"held after a failed start: scontrol release {job} ({state.state})"
    word = state.reason
    if word is None:
        return "" if state.state == "PENDING" else f"({state.state})"
    if word.startswith(("QOS", "MaxJobsPer", "Assoc")):
        plain = "for a limit of account or QOS"
    elif "held" in word and word not in _WAITS:
        plain = f"held: scontrol release {job}"
    else:
        plain = _WAITS.get(word, "").format(id=job)
    start = f", start expected {state.start}" if state.start is not None else ""
    return f"{plain} ({word}){start}".lstrip()


def ended_by(state: QueueState) -> str:
    """What ended a job, such as ``out of memory`` or ``signal 9``; empty where Slurm does not say."""
    if (plain := _ENDS.get(state.state)) is not None:
        return plain
    code, _, signal = (state.exit or "").partition(":")
    if signal not in ("", "0"):
        return killing_signal(int(signal)) if signal.isdigit() else f"signal {signal}"
    return f"exit code {code}" if code not in ("", "0") else (state.reason or "")


def killing_signal(number: int) -> str:
    """A signal, and what mostly is behind it."""
    return "signal 9: out of memory?" if number == 9 else f"signal {number}"
