"""Reads the file that W&B writes offline: protobuf records in the log format of LevelDB."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK, HEADER, FIRST_HEADER = 32768, struct.Struct("<IHB"), 7
WHOLE, LAST = 1, 4
"""Kinds of a piece of a record: the only one, the last one. After the other kinds, more pieces follow."""


@dataclass
class Records:
    """The records of a run that the tests use."""

    history: list[dict[str, Any]] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None


def wandb_records(folder: Path) -> Records:
    """Returns the records of the only run whose folder `wandb` is in `folder`."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[import-not-found,unused-ignore]

    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    found = Records()
    for raw in _pieces_joined(path.read_bytes()):
        record = Record()
        record.ParseFromString(raw)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            found.history.append(row)
        elif kind in ("config", "run"):
            config = record.config if kind == "config" else record.run.config
            found.config |= {item.key: json.loads(item.value_json) for item in config.update}
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found


def _pieces_joined(data: bytes) -> Iterator[bytes]:
    position, record = FIRST_HEADER, b""
    while position + HEADER.size <= len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER.size:
            position += left
            continue
        _, length, kind = HEADER.unpack_from(data, position)
        position += HEADER.size
        record += data[position : position + length]
        position += length
        if kind in (WHOLE, LAST):
            yield record
            record = b""
