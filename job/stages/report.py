"""Report stage: writes the report, and publishes the result if requested."""

import json
import shutil
from collections.abc import Generator
from dataclasses import replace

from artifact.controlnet.names import opens_in_comfyui
from families.family import limited_licence, restoring
from job.output_folder import OutputFolder
from job.progress import Progress
from job.publishing.hub import publish
from job.publishing.model_card import ALL_TOOLS, KINDS, LORA, CardFacts, listed_settings
from job.report.comfyui_workflow import write_workflow
from job.report.ending import ending
from job.report.metrics import steps_done
from job.report.summary import BaseUsed, write_report
from job.report.usage import OWN, recipes_of_report
from job.stage import Job
from settings.public import hide_paths, public_settings


def report(job: Job) -> Generator[Progress, None, None]:
    """Write report.json and report.html. The last progress line of the job contains the seconds of all phases."""
    from job.report.page import write_page  # imports matplotlib, which earlier stages do not need

    config, output = job.config, job.output
    triggers = list(job.training.triggers if config.train_tokens else config.class_words)
    write_report(
        output,
        public_settings(config),
        triggers,
        job.dataset,
        _warnings(job),
        _base_used(job),
        job.verification,
        job.phases,
        0 if job.state is None else job.state["step"],
        job.evaluation,
        steps_done(output.metrics, job.training.trainer.max_train_steps),
        job.restoration,
        ending(job.training.settling, job.training.trainer.step, len(config.class_words)),
        job.plan,
    )
    shutil.rmtree(output.prompts, ignore_errors=True)
    write_workflow(output)
    page = write_page(output, job.dataset)
    yield replace(job.progress(f"report: {page}"), phases=job.phases.seconds)
    if not job.processes.is_single:
        job.accelerator.end_training()
    if config.push_to_hub is not None:
        facts = CardFacts(
            config.base_model, list(job.training.triggers), _prompts(job), listed_settings(config),
            KINDS.get(config.adapter, LORA), _other_tools(output), limited_licence(job.family),
        )  # fmt: skip
        yield job.progress(f"published: {publish(config.publishing, output, facts)}")


def _other_tools(output: OutputFolder) -> tuple[str, ...]:
    """Return the tools in the report's recipes that open weights.safetensors itself."""
    recipes = recipes_of_report(json.loads(output.report.read_text(encoding="utf-8")))
    named = [name for recipe in recipes if recipe.as_it_is for name in recipe.tool.split(", ")]
    named = [name for name in named if name not in OWN]
    return ALL_TOOLS if {*named, "InvokeAI"} == set(ALL_TOOLS) else tuple(named)


def _prompts(job: Job) -> list[str]:
    """Return the prompt of each sample; none where the samples have the captions of the images."""
    if job.config.is_controlnet or restoring(job.family) is not None:
        return []
    return [prompt for prompt in job.samples.prompts for _ in range(job.samples.count)]


def _warnings(job: Job) -> list[str]:
    """Return the distinct warnings, without those about rejected files, which are listed separately."""
    refused = {f"not used: {item.reason}" for item in job.dataset.rejected}
    return [hide_paths(warning) for warning in dict.fromkeys(job.warnings) if warning not in refused]


def _base_used(job: Job) -> BaseUsed:
    tokens = job.config.num_tokens > 0 or job.config.train_existing_tokens or bool(job.config.train_tokens)
    encoders = tuple(job.family.encoder_names) if tokens else ()
    controlnet = job.training.controlnet
    return BaseUsed(
        type(job.family.pipeline()).__name__,
        encoders,
        restoring(job.family) is not None,
        controlnet is None or opens_in_comfyui(controlnet.module),
    )
