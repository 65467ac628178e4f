"""The packages that only some sources and engines need, and how they are installed."""

from collections.abc import Iterator
from contextlib import contextmanager

from preprocess.errors import SetupError

EXTRA = "requirements-data.txt"
STORE_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
"""Which package opens which scheme for fsspec."""
INSTALLED_BY = {"gcsfs": "gcsfs", "adlfs": "adlfs", "ray": "-r requirements-ray.txt"}
"""What pip is given for packages that are not in EXTRA."""


@contextmanager
def needing_extra(source: str) -> Iterator[None]:
    """Around imports of such packages. Raises SetupError with the remedy where one is missing."""
    try:
        yield
    except ImportError as error:
        package = STORE_PACKAGES.get(source.partition(":")[0]) or (error.name or "datasets").partition(".")[0]
        command = INSTALLED_BY.get(package, f"-r {EXTRA}")
        raise SetupError(
            f"{source}: needs the package {package}, which is not installed: pip install {command}"
        ) from error
