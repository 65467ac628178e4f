"""`python -m service.sweep DATA --config COMMON.yaml --sweep SWEEP.yaml --output FOLDER`: many trainings, one page.

The same command continues an interrupted sweep.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fetching.download import is_url
from job.output_folder import write_whole
from preprocess.errors import DatasetError
from preprocess.sources.references import is_remote
from preprocess.uploads.given_data import require_present
from service.sweep.ray_engine import require_ray, run_with_ray
from service.sweep.space import read_sweep, trial_settings
from service.sweep.trials import Trial, lay_out, run_all
from settings.command_line.output import require_writable
from settings.command_line.parser import CommandParser, report_wrong_input
from settings.record import BOOLEANS, ConfigError, read_settings_file

SUCCESS, SOME_FAILED = 0, 1
AUTO = "auto"


def build_parser(prog: str = "python -m service.sweep") -> CommandParser:
    """Return the parser. Settings shared by all trials are in a file, as for train.py."""
    parser = CommandParser(
        prog=prog,
        usage="%(prog)s DATA [DATA ...] --sweep FILE --output DIR [--config FILE] [--engine {local,ray}]",
        description="Run many trainings and compare them on one page. The same command resumes a sweep.",
    )
    parser.add_argument(
        "data", nargs="+", metavar="DATA", help="as for train.py; a prepared dataset avoids preparation in each trial"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="common settings of all trials")
    parser.add_argument("--sweep", type=Path, required=True, metavar="FILE", help="search, trials, seed and fields")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="new folder, or that of the sweep to resume"
    )
    parser.add_argument(
        "--engine", choices=["local", "ray"], default="local", help="ray: run on the machines of a cluster"
    )
    parser.add_argument("--gpus", type=float, default=1.0, metavar="FLOAT", help="GPUs for each trial, with ray")
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "python -m service.sweep") -> int:
    """Run the command. Returns the exit status: 0, 1 when a trial failed, 2 for wrong input."""
    arguments = build_parser(prog).parse_args(argv)
    try:
        if arguments.engine == "ray":
            require_ray()
        require_present(arguments.data)
        require_writable(arguments.output)
        trials = _trials(arguments)
    except (ConfigError, DatasetError) as error:
        return report_wrong_input(error)
    return SOME_FAILED if _run(arguments, trials) else SUCCESS


def _trials(arguments: argparse.Namespace) -> list[Trial]:
    common: dict[str, Any] = read_settings_file(arguments.config) if arguments.config else {}
    if common.get("evaluate", AUTO) == AUTO:  # as in the config.yaml of every run
        common["evaluate"] = True  # trials are ranked by their evaluation, with or without checkpoints
    if common["evaluate"] in BOOLEANS[False]:
        raise ConfigError("evaluate: a sweep ranks its trials by their evaluation; leave out evaluate: false")
    return lay_out(arguments.output, common, trial_settings(read_sweep(arguments.sweep), common))


def _run(arguments: argparse.Namespace, trials: Sequence[Trial]) -> dict[int, str]:
    from service.sweep.summary import summary_page

    data = [one if is_url(one) or is_remote(one) else str(Path(one).resolve()) for one in arguments.data]
    engine = run_with_ray(trials, data, arguments.gpus) if arguments.engine == "ray" else run_all(trials, data)
    failures: dict[int, str] = {}
    page = arguments.output / "sweep.html"
    for trial, failure in engine:
        if failure:
            failures[trial.number] = failure
        quality = "no quality" if trial.quality is None else f"quality {trial.quality:.3f}"
        print(f"trial {trial.number} of {len(trials)}: {dict(trial.values)}: {failure or quality}", flush=True)
        write_whole(page, summary_page(trials, failures))
    print(page, flush=True)
    return failures


if __name__ == "__main__":
    sys.exit(main())
