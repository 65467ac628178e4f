"""The tab Watch: runs side by side, samples by step, the report."""

from pathlib import Path
from typing import Any

import gradio as gr

from job.output_folder import OutputFolder
from pages.pictures import numbered_pictures
from settings.record import ConfigError
from studio import texts
from studio.framed import framed
from studio.jobs.queue import JobQueue
from studio.jobs.record import JobRecord
from studio.run_view import runs_view

MOST_RUNS = 4


class WatchTab:
    """The components and their actions."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        gr.Markdown(texts.WATCH_LEAD)
        self.runs = gr.Dropdown(
            queue.choices(), value=[], multiselect=True, max_choices=MOST_RUNS, label=texts.RUNS, elem_id="runs"
        )
        self.view = gr.HTML(elem_id="watch")
        gr.Markdown(f"### {texts.SAMPLES}\n\n{texts.SAMPLES_INFO}")
        self.moment = gr.Slider(0, 1, value=0, step=1, label=texts.SAMPLE_NUMBER, elem_id="moment")
        self.samples = gr.Gallery(
            label=texts.SAMPLES, columns=4, height="auto", allow_preview=False, interactive=False, buttons=[],
            elem_id="samples",
        )  # fmt: skip
        with gr.Accordion(texts.REPORT, open=False):
            self.show_report = gr.Button(texts.SHOW_REPORT, elem_id="show-report")
            self.report = gr.HTML(elem_id="report")
        self.runs.change(self._chosen, self.runs, [self.view, self.moment, self.samples])
        self.moment.change(self._samples_at, [self.runs, self.moment], self.samples, show_progress="hidden")
        self.show_report.click(self._report, self.runs, self.report)

    def first_choice(self) -> list[str]:
        """Return the runs that are shown at first: the running ones, otherwise the next, otherwise the newest of the
        others."""
        jobs = self._queue.jobs()
        running = [job.id for job in jobs if job.state == "running"]
        next_ones = [job.id for job in jobs if job.state == "queued"]
        kept = [job.id for job in reversed(jobs) if job.state != "cancelled"]
        return running[:MOST_RUNS] or next_ones[:1] or kept[:1]

    def refresh(self, chosen: list[str] | None) -> str:
        """Return the current state of the runs."""
        return runs_view([(job, self._queue.log(job)) for job in self._jobs(chosen)])

    def _jobs(self, chosen: list[str] | None) -> list[JobRecord]:
        try:
            return [self._queue.get(identity) for identity in chosen or []]
        except ConfigError as error:
            raise gr.Error(str(error)) from error

    def _chosen(self, chosen: list[str]) -> list[Any]:
        """Update the list of samples, the newest first."""
        moments = self._moments(chosen)
        last = max(0, len(moments) - 1)
        slider = gr.Slider(0, max(1, last), value=last, interactive=last > 0)
        return [self.refresh(chosen), slider, self._samples_at(chosen, last)]

    def _moments(self, chosen: list[str]) -> list[tuple[str, Path]]:
        jobs = self._jobs(chosen[:1])
        return moments(OutputFolder(jobs[0].output)) if jobs else []

    def _samples_at(self, chosen: list[str], number: float) -> list[tuple[str, str]]:
        found = self._moments(chosen)
        if not found:
            return []
        label, folder = found[min(int(number), len(found) - 1)]
        return [(str(path), label) for path in numbered_pictures(folder)]

    def _report(self, chosen: list[str]) -> str:
        jobs = self._jobs(chosen[:1])
        page = OutputFolder(jobs[0].output).page if jobs else None
        return framed(page) if page is not None and page.is_file() else f"<p>{texts.NO_REPORT}</p>"


def moments(output: OutputFolder) -> list[tuple[str, Path]]:
    """Return the folders of samples with their labels: before, by step, and the result."""
    found = [(texts.BEFORE_TRAINING, output.samples_before)]
    for folder in sorted(output.samples_by_step.glob("step_*")):
        found.append((texts.SAMPLES_OF.format(step=int(folder.name.removeprefix("step_"))), folder))
    found.append((texts.RESULT, output.samples))
    return [(label, folder) for label, folder in found if any(folder.glob("*.png"))]
