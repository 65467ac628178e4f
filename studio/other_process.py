"""Runs tasks of the page in separate processes, which free their memory when they end. Input is a file, output is
lines."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service.processes.child_process import ChildProcess

SUCCESS, REFUSED = 0, 2
"""Exit statuses. REFUSED: wrong images or settings; the last line is the reason."""
ERROR = "error: "


@contextmanager
def running_task(module: str, content: Mapping[str, Any], request: Path) -> Iterator[ChildProcess]:
    """Run `python -m module REQUEST`, with the content in the file `request`. It is stopped at the end of the
    context."""
    request.write_text(json.dumps(content), encoding="utf-8")
    child = ChildProcess.start([sys.executable, "-m", module, str(request)])
    try:
        yield child
    finally:
        child.stop()


def read_request(argv: Sequence[str]) -> Any:
    """Return the request, in the process itself."""
    return json.loads(Path(argv[0]).read_text(encoding="utf-8"))


def refuse(error: Exception) -> int:
    """Print the reason, in the process itself. Returns its exit status."""
    print(f"{ERROR}{error}", flush=True)
    return REFUSED


def reason_in(lines: Sequence[str]) -> str:
    """Return the reason printed by `refuse`; "" if it was not called."""
    return "\n".join(lines).rpartition(ERROR)[2]
