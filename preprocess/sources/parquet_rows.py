"""The rows of metadata.parquet, as Hugging Face's imagefolder writes it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from preprocess.errors import DatasetError
from preprocess.sources.extra import needing_extra


def parquet_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the record of each row, with one batch in memory. Raises DatasetError."""
    with needing_extra(path.name):
        import pyarrow
        from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for record in batch.to_pylist():
                    number += 1
                    yield f"{path.name}, row {number}", record
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise DatasetError(f"{path.name}: cannot be read ({reason}). Write or download it again.") from error
