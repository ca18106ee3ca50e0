"""The door of ``python -m ssvae``: one verb, one file beside this one.

Exit codes: 0 done; 1 something that was asked for failed; 2 bad input (nothing was written); 130 interrupted.
Heavy packages are imported by the verb that needs them, when it runs: help and mistyped commands are answered at once.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from ssvae.cli import (
    bench,
    cancel,
    cell,
    collect,
    cost,
    drill,
    export,
    measure,
    predict,
    preflight,
    publish,
    reconstruct,
    report,
    reward,
    status,
    track,
)
from ssvae.core.paths import prepare_environment

VERBS = {
    "bench": bench,
    "cancel": cancel,
    "cell": cell,
    "collect": collect,
    "cost": cost,
    "drill": drill,
    "export": export,
    "measure": measure,
    "predict": predict,
    "preflight": preflight,
    "publish": publish,
    "reconstruct": reconstruct,
    "report": report,
    "reward": reward,
    "status": status,
    "track": track,
}
"""Each module: HELP (one line), ``add_arguments(parser)``, ``run(args) -> exit code``."""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="python -m ssvae",
        description="Work with what runs have made. Cells are run by: python run.py -m reg=none,lcr channels=48",
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, module in VERBS.items():
        described = module.__doc__ or ""
        verb = verbs.add_parser(
            name,
            help=module.HELP,
            description=described,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(verb)
    return parser


def main(argv: Sequence[str]) -> int:
    """Run ``argv`` (without the program's name); returns the exit code. argparse's own answers are SystemExit."""
    args = build_parser().parse_args(list(argv))
    prepare_environment()
    try:
        code = int(VERBS[args.verb].run(args))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read the output (head, less) has seen enough; as for any program that SIGPIPE ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except ValueError as error:
        # By the convention of the whole package a ValueError is the user's mistake, and its text names the remedy.
        sys.stderr.write(f"{args.verb}: {error}\n")
        return 2
    except RuntimeError as error:
        # A CPU has no error class of its own for this.
        if "allocate memory" not in str(error) and "out of memory" not in str(error):
            raise
        sys.stderr.write(
            f"{args.verb}: out of memory ({str(error).splitlines()[0][:120]}); smaller pieces need less: "
            "--tile, --chunk, --size or --batch, where the verb has them\n"
        )
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"{args.verb}: interrupted\n")
        return 130
