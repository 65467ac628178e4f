"""The command `python -m job.report FOLDER`: writes report.html of an output folder again, and prints its path."""

import sys
from collections.abc import Sequence
from pathlib import Path

from settings.command_line.parser import CommandParser, report_wrong_input

SUCCESS = 0


def build_parser(prog: str = "python -m job.report") -> CommandParser:
    """Return the parser for the output folder and the location of its dataset."""
    parser = CommandParser(prog=prog, description="Write report.html of an output folder again, and print its path.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the output folder of a training")
    parser.add_argument(
        "--dataset", type=Path, metavar="DIR", help="the folder of its dataset, if it is not in the output folder"
    )
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "python -m job.report") -> int:
    """Run the command. Returns the exit status: 0, or 2 for a folder that is not an output folder."""
    arguments = build_parser(prog).parse_args(argv)
    from job.output_folder import OutputFolder  # deferred: these imports are slow, and --help does not need them
    from job.report.page import write_page
    from preprocess.dataset import PreparedDataset
    from preprocess.errors import DatasetError

    output = OutputFolder(arguments.folder)
    if not output.report.is_file():
        return report_wrong_input(
            DatasetError(
                f"{arguments.folder}: has no {output.report.name}; give the output folder of a finished training"
            )
        )
    try:
        print(write_page(output, PreparedDataset.read(arguments.dataset or output.dataset)))
    except (DatasetError, OSError) as error:
        return report_wrong_input(error)
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # JSON, or its values
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return report_wrong_input(
            DatasetError(f"{arguments.folder}: its files are damaged or of another version ({reason})")
        )
    return SUCCESS


if __name__ == "__main__":
    sys.exit(main())
