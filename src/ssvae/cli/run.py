"""The door of ``run.py``: judge the whole command line first, then let Hydra and the sweeper work.

Exit codes: 0 all cells done; 1 a cell failed; 2 bad input (nothing was computed or written); 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import hydra
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig
from rich.console import Console

from ssvae.config.compose import CONF, finished_vae, group_names, quote_choices, resolve
from ssvae.config.problem import InputError, Problem
from ssvae.core.paths import prepare_environment


def report_problems(error: InputError) -> None:
    """Print the problems, one a line, to stderr."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    count = len(error.problems)
    console.print(f"[bold red]{count} problem{'s' if count > 1 else ''}; nothing was run or written:[/]")
    for line in str(error).splitlines():
        console.print(f"  {line}", markup=False)


def main(argv: Sequence[str]) -> int:
    """Run the command line ``argv`` (without the program's name); returns the exit code."""
    groups = group_names(CONF)
    # Hydra's parser takes overrides on one side of a flag only; -m means the same in any place.
    # Hydra itself looks up a choice that is not swept.
    spelt = [
        word for text in quote_choices(argv, groups) for word in ([text] if "," in text else finished_vae([text], CONF))
    ]
    argv = sorted(spelt, key=lambda word: word not in ("-m", "--multirun"))
    if "RANK" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ:
        return _refuse("run.py makes the ranks of each cell itself; start it as plain `python run.py ...`")
    args, unknown = get_args_parser().parse_known_args(argv)
    if not (args.help or args.hydra_help or args.info or args.cfg or args.shell_completion or unknown):
        try:
            resolve(_hydra_first(args.overrides))
        except InputError as error:
            report_problems(error)
            return 2
    prepare_environment()
    sys.argv = [sys.argv[0], *argv]
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(_task)()
    except SystemExit as end:  # how the sweeper hands its exit code through Hydra
        return end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt:
        return 130
    return 0


def _refuse(reason: str) -> int:
    problem = Problem("launcher", "accelerate launch or torchrun", reason)
    report_problems(InputError([(problem, [""])], 1))
    return 2


def _hydra_first(overrides: Sequence[str]) -> tuple[str, ...]:
    """The order in which the sweeper sees them, so that the grid is resolved once."""
    return tuple(sorted(overrides, key=lambda text: not text.lstrip("+~").startswith(("hydra.", "hydra/"))))


def _task(cfg: DictConfig) -> None:
    raise AssertionError("cells are run by the sweeper")
