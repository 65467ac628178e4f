"""The packages that only sources by name need (requirements-data.txt)."""

from collections.abc import Iterator
from contextlib import contextmanager

from preprocess.errors import DatasetError

EXTRA = "requirements-data.txt"
STORE_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
"""Which package opens which scheme for fsspec."""


@contextmanager
def needing_extra(source: str) -> Iterator[None]:
    """Around imports of such packages. Raises DatasetError with the remedy where one is missing."""
    try:
        yield
    except ImportError as error:
        package = STORE_PACKAGES.get(source.partition(":")[0]) or (error.name or "datasets").partition(".")[0]
        command = package if package in ("gcsfs", "adlfs") else f"-r {EXTRA}"
        raise DatasetError(
            f"{source}: needs the package {package}, which is not installed: pip install {command}"
        ) from error
