"""Fill MLflow from the run folders, which hold everything: after a server was away, on another machine, or from a login
node where the nodes that compute have no network.

    python -m ssvae track sync                         every sweep, to where each was tracked
    python -m ssvae track sync reg4 --uri http://host:5000

May be run at any time and any number of times, also while jobs run: what is there already is not sent again, and a cell
that is still being worked on stays RUNNING.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = "fill MLflow from the run folders: track sync [SWEEP ...]"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    sync = actions.add_parser("sync", help="send what MLflow lacks", description=__doc__, allow_abbrev=False,
                              formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    sync.add_argument("sweeps", metavar="SWEEP", nargs="*", help="names of folders under runs/sweeps; default: all")
    sync.add_argument(
        "--uri", metavar="URI",
        help="where to; default: track.uri of the sweep, $MLFLOW_TRACKING_URI, or the database under runs/",
    )  # fmt: skip
    sync.add_argument("--experiment", metavar="NAME", help="MLflow experiment; default: track.experiment of the sweep")


def run(args: argparse.Namespace) -> int:
    """Raises ValueError, before anything is sent, for an unknown sweep or an address that makes no sense; exit code 1
    when the tracker does not answer, or a cell cannot be sent."""
    from ssvae.core.paths import project_root
    from ssvae.report.refresh import refresh_records
    from ssvae.report.state import sweep_rows
    from ssvae.sweep.liveness import Liveness
    from ssvae.track.base import TrackerError
    from ssvae.track.mlflow import MlflowTracker
    from ssvae.track.records import cell_paths, sweeps
    from ssvae.track.sync import sync_sweep

    root = project_root()
    names = list(dict.fromkeys(args.sweeps)) or sweeps(root)
    if not names:
        raise ValueError(f"{root / 'runs' / 'sweeps'} has no sweep yet: nothing to send")
    for name in names:
        cell_paths(root, name)
    targets = {name: _target(root, name, args.experiment, args.uri) for name in names}
    lives = Liveness(root)
    trackers: dict[tuple[str, str | None], MlflowTracker] = {}
    bad = False
    for name, target in targets.items():
        # What jobs did since somebody looked: their cells' statuses are sent as they are now.
        refresh_records(root, name, sweep_rows(root, name))
        try:
            if target not in trackers:
                trackers[target] = MlflowTracker(root, *target)
            count = sync_sweep(trackers[target], root, name, lives)
        except TrackerError as error:
            sys.stderr.write(f"{name}: {error}\n")
            bad = True
            continue
        sys.stdout.write(f"{count.line()}\n")
        for problem in count.problems:
            sys.stderr.write(f"{problem}\n")
            bad = True
    return 1 if bad else 0


def _target(root: Path, sweep: str, experiment: str | None, uri: str | None) -> tuple[str, str | None]:
    """(experiment, URI) of a sweep. Raises ValueError for an address that makes no sense."""
    from ssvae.core.tracking_uri import chosen_uri, masked, uri_problem
    from ssvae.track.records import track_settings

    told = track_settings(root, sweep)
    address, source = (uri, "--uri") if uri is not None else chosen_uri(told[1])
    if address is not None and (remedy := uri_problem(address)):
        raise ValueError(f"{source} {masked(address)}: {remedy}")
    return experiment or told[0] or "ssvae", address
