"""Packages that only some sources and engines need, and the commands that install them."""

from collections.abc import Iterator
from contextlib import contextmanager

from preprocess.errors import SetupError

EXTRA = "requirements-data.txt"
STORE_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
"""The package that fsspec needs for each scheme."""
INSTALLED_BY = {"gcsfs": "gcsfs", "adlfs": "adlfs", "ray": "-r requirements-ray.txt"}
"""Arguments of pip install for packages that are not in EXTRA."""


@contextmanager
def needing_extra(source: str) -> Iterator[None]:
    """A context for imports of such packages. Raises SetupError with the remedy if one is missing."""
    try:
        yield
    except ImportError as error:
        package = STORE_PACKAGES.get(source.partition(":")[0]) or (error.name or "datasets").partition(".")[0]
        command = INSTALLED_BY.get(package, f"-r {EXTRA}")
        raise SetupError(
            f"{source}: needs the package {package}, which is not installed: pip install {command}"
        ) from error
