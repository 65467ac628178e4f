"""HTML of the current state of a run: progress, curves, warnings, log."""

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from string import Template
from typing import Any

from job.output_folder import OutputFolder
from job.progress import Progress
from job.report.curves import Curve, curves
from job.report.metrics import read_metrics
from studio import texts
from studio.estimates.lines import clock
from studio.jobs.gpu import GpuUse, gpu_use
from studio.jobs.process import memory_gib
from studio.jobs.record import JobRecord

LOG_LINES = 12
SHOWN_CURVES = 5
RUN = Template("""<article class="run" aria-label="$name"><h3>$name</h3>
<p class="state">$state</p>
<progress max="1" value="$fraction" aria-label="$name"></progress>
<p class="message">$message</p>
<dl>$figures</dl>
<div class="charts">$charts</div>
<h4>$warnings_title</h4>$warnings
<details><summary>$log_title</summary><pre>$log</pre></details>
</article>""")


@dataclass(frozen=True)
class LogOfRun:
    """The output of train.py. `last`: the newest progress with a step or stage. `lines`: the newest messages."""

    last: Progress | None
    warnings: tuple[str, ...]
    lines: tuple[str, ...]


def queue_table(jobs: Sequence[JobRecord]) -> str:
    """Return the HTML of the queue, the newest first."""
    if not jobs:
        return f"<p>{texts.NO_JOBS}</p>"
    rows = "".join(
        f'<li class="{job.state}"><b>{html.escape(job.name)}</b> <span class="state">{texts.STATES[job.state]}</span>'
        f"<p>{html.escape(job.error)}</p></li>"
        for job in reversed(jobs)
    )
    return f'<ul class="queue">{rows}</ul>'


def runs_view(jobs: Sequence[tuple[JobRecord, Path]]) -> str:
    """Return the HTML of several runs side by side, each with its log file."""
    if not jobs:
        return f"<p>{texts.NO_RUNS}</p>"
    return f'<div class="runs">{"".join(_run(job, log) for job, log in jobs)}</div>'


def read_log(path: Path) -> LogOfRun:
    """Read the log of a run, which may not have started."""
    if not path.is_file():
        return LogOfRun(None, (), ())
    status = path.stat()
    return _read_log(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=16)
def _read_log(path: Path, size: int, changed: int) -> LogOfRun:
    """`size` and `changed`: of the current file, so that a file that has grown is read again."""
    last: Progress | None = None
    warnings: dict[str, None] = {}
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        progress = Progress.from_line(line)
        if progress is None:
            lines.append(line)
            continue
        lines.append(str(progress))
        if progress.warning:
            warnings[progress.message] = None
        else:
            last = progress
    return LogOfRun(last, tuple(warnings), tuple(lines[-LOG_LINES:]))


def _run(job: JobRecord, log_file: Path) -> str:
    log, output = read_log(log_file), OutputFolder(job.output)
    fraction = 1.0 if job.state == "done" else log.last.fraction if log.last else 0.0
    warnings = "".join(f"<li>{html.escape(line)}</li>" for line in log.warnings)
    return RUN.substitute(
        name=html.escape(job.name),
        state=texts.STATES[job.state],
        fraction=f"{fraction:.4f}",
        message=html.escape(job.error or (log.last.message if log.last else "")),
        figures="".join(f"<dt>{title}</dt><dd>{html.escape(value)}</dd>" for title, value in _figures(job, log)),
        charts="".join(f"<figure><figcaption>{each.title}</figcaption>{each.svg}</figure>" for each in _curves(output)),
        warnings_title=texts.WARNINGS,
        warnings=f"<ul>{warnings}</ul>" if warnings else f"<p>{texts.NO_WARNINGS}</p>",
        log_title=texts.LOG,
        log=html.escape("\n".join(log.lines)),
    )


def _figures(job: JobRecord, log: LogOfRun) -> list[tuple[str, str]]:
    found = []
    last = log.last
    if last is not None and last.stage is not None:
        found.append((last.stage.capitalize(), f"{last.done} / {last.total}"))
    if last is not None and last.loss is not None:
        found.append(("Loss", f"{last.loss:.4f}"))
    if job.state == "running" and last is not None and last.eta_seconds is not None:
        found.append((texts.ETA.capitalize(), clock(last.eta_seconds)))
    if (peak := _peak_gib(OutputFolder(job.output))) is not None:
        found.append((texts.PEAK_MEMORY, f"{peak:.2f} GiB"))
    if (memory := memory_gib(job)) is not None:
        found.append((texts.MEMORY, f"{memory:.2f} GiB"))
        found += [(texts.GPU, _of_gpu(use)) for use in gpu_use()]
    return found


def _of_gpu(use: GpuUse) -> str:
    busy = texts.GPU_SILENT if use.busy is None else texts.GPU_BUSY.format(percent=use.busy)
    return texts.GPU_USE.format(busy=busy, used=f"{use.used_gib:.1f}", total=f"{use.total_gib:.1f}")


def _peak_gib(output: OutputFolder) -> float | None:
    """Return the last recorded peak memory."""
    rows = _rows(output.metrics, output.metrics.stat().st_size if output.metrics.is_file() else 0)
    peak = rows[-1].get("peak_memory_gib") if rows else None
    return None if peak is None else float(peak)


@lru_cache(maxsize=8)
def _rows(metrics: Path, size: int) -> list[dict[str, Any]]:
    """`size`: of the current file, so that a file that has grown is read again."""
    return read_metrics(metrics)


def _curves(output: OutputFolder) -> Sequence[Curve]:
    files = (output.metrics, output.validation, output.report)
    return _curves_of(output.path, tuple(path.stat().st_size if path.is_file() else 0 for path in files))


@lru_cache(maxsize=8)
def _curves_of(folder: Path, sizes: tuple[int, ...]) -> Sequence[Curve]:
    """`sizes`: of the current files, so that the curves are plotted again if one has grown."""
    output = OutputFolder(folder)
    rows = _rows(output.metrics, sizes[0])
    if not rows:
        return ()
    report = json.loads(output.report.read_text(encoding="utf-8")) if output.report.is_file() else {}
    return curves(rows, report.get("evaluation"), read_metrics(output.validation))[:SHOWN_CURVES]
