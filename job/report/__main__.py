"""`python -m job.report FOLDER` makes report.html of an output folder again, and prints its path."""

import argparse
import sys
from pathlib import Path

from job.output_folder import OutputFolder
from job.report.page import write_page
from preprocess.dataset import PreparedDataset
from preprocess.errors import DatasetError


def main() -> int:
    """Run the command. Returns the exit status: 0, or 2 for a folder that is no output."""
    parser = argparse.ArgumentParser(prog="python -m job.report", description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="the output folder of a training")
    parser.add_argument("--dataset", type=Path, help="where its dataset is, if not in the folder")
    arguments = parser.parse_args()
    output = OutputFolder(arguments.folder)
    try:
        print(write_page(output, PreparedDataset.read(arguments.dataset or output.dataset)))
    except (DatasetError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
