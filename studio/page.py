"""The page: its tabs, and the parts that are refreshed while it is open."""

from functools import cache
from typing import Any

import gradio as gr

from pages.shell import page_file
from studio import texts
from studio.jobs.queue import JobQueue
from studio.jobs.worker import ensure_worker
from studio.run_view import queue_table
from studio.tabs.pictures import PicturesTab
from studio.tabs.train import TrainTab
from studio.tabs.try_out import TryTab
from studio.tabs.watch import WatchTab
from studio.workspace import Workspace

SECONDS_BETWEEN_LOOKS = 2.0
FONT = ["system-ui", "sans-serif"]
MONOSPACE = ["ui-monospace", "monospace"]


def build_page(workspace: Workspace) -> gr.Blocks:
    """Build the page for a workspace. Starts a worker for a queue with unfinished jobs."""
    queue = JobQueue(workspace.queue, workspace.runs)
    ensure_worker(queue, workspace.runs)
    with gr.Blocks(title=texts.TITLE, analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gr.Markdown(f"# {texts.TITLE}\n\n{texts.LEAD}", elem_id="head")
        with gr.Tabs():
            with gr.Tab(texts.PICTURES, id="pictures"):
                pictures = PicturesTab(workspace)
            with gr.Tab(texts.TRAIN, id="train") as train_tab:
                train = TrainTab(workspace, queue)
            with gr.Tab(texts.WATCH, id="watch") as watch_tab:
                watch = WatchTab(queue)
            with gr.Tab(texts.TRY, id="try") as try_tab:
                try_out = TryTab(workspace, queue)

        def loaded() -> list[Any]:
            ensure_worker(queue, workspace.runs)
            sets = workspace.picture_sets()
            newest = sets[0] if sets else None
            return [
                gr.Dropdown(sets, value=newest),
                gr.Dropdown(queue.choices()),
                gr.Dropdown(queue.choices(), value=watch.first_choice()),
            ]

        page.load(loaded, None, [pictures.stored, train.job, watch.runs])
        pictures.stored.change(
            lambda name: gr.Dropdown(workspace.picture_sets(), value=name), pictures.stored, train.set
        )
        train_tab.select(lambda: gr.Dropdown(queue.choices()), None, train.job)
        train_tab.select(train.show_cards, train.about_cards, train.cards, show_progress="hidden")
        train_tab.select(train.estimate, train.about_needs, train.needs, show_progress="hidden")
        watch_tab.select(_with_running(queue, watch), watch.runs, watch.runs)
        try_tab.select(lambda chosen: _newest(try_out, chosen), try_out.lora, try_out.lora)
        timer = gr.Timer(SECONDS_BETWEEN_LOOKS)
        timer.tick(
            lambda chosen: [queue_table(queue.jobs()), watch.refresh(chosen)], watch.runs, [train.table, watch.view],
            show_progress="hidden",
        )  # fmt: skip
    return page


def _with_running(queue: JobQueue, watch: WatchTab) -> Any:
    """Return the list of runs when the tab is opened: the selection is kept, and is never empty."""
    return lambda chosen: gr.Dropdown(queue.choices(), value=chosen or watch.first_choice())


def _newest(try_out: TryTab, chosen: str | None) -> Any:
    choices = try_out.choices()
    return gr.Dropdown(choices, value=chosen or (choices[0][1] if choices else None))


@cache
def theme() -> gr.themes.Base:
    """Return Gradio's plain theme with system fonts, so that nothing is loaded from the network, and with the contrast
    of WCAG 2.2, AA."""
    plain = gr.themes.Default(primary_hue="orange", font=FONT, font_mono=MONOSPACE)
    return plain.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_cancel_background_fill="#b91c1c",
        button_cancel_background_fill_dark="#b91c1c",
        button_cancel_background_fill_hover="#991b1b",
        button_cancel_background_fill_hover_dark="#991b1b",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
    )


def style() -> str:
    """Return the style sheet of the page."""
    return page_file("studio.css", "studio")


def script() -> str:
    """Return the page's script, which is added to Gradio's head element."""
    return f"<script>{page_file('studio.js', 'studio')}</script>"
