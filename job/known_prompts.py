"""The prompts that a job will encode, for text encoders that are loaded only once."""

from collections.abc import Iterator

from evaluation.checkpoints import evaluation_prompts
from evaluation.concepts import sampled_concepts
from evaluation.prompt_sets import captions_of
from families.parts.placeholder_tokens import expand_triggers
from job.stage import Job
from trainer.losses.registry import class_words_of


def known_prompts(job: Job) -> list[str]:
    """Return the distinct prompts of training, samples, verification and evaluation, without those with shuffled tags,
    which are encoded on demand."""
    return list(dict.fromkeys([*_of_training(job), *_of_samples(job)]))


def _of_training(job: Job) -> Iterator[str]:
    """Yield captions, the triggers alone, both with replaced triggers where a loss asks the base model for them, and
    the empty prompt."""
    config = job.config
    replaced = {trigger: [word] for trigger, word in class_words_of(config.preparation).items()}
    asks_base = config.prior_matching_weight > 0 or config.loss_type == "dco"
    for text in (*(caption for example in job.dataset.examples for caption in example.captions), *config.class_words):
        yield text
        if asks_base:
            yield expand_triggers(text, replaced)
    yield from config.prior_prompts
    for prompt in config.target_prompts:
        yield prompt
        yield expand_triggers(prompt, replaced)
    yield ""


def _of_samples(job: Job) -> Iterator[str]:
    yield from (*job.samples.prompts, *job.samples.plain)
    if job.encoders is None:
        return
    config, captions = job.config, captions_of(job.dataset)
    words = config.preparation.class_words
    for concept in [words, *sampled_concepts(words)] if len(words) > 1 else [words]:
        prompts = evaluation_prompts(config.validation, config.preparation, config.base_model, captions, concept)
        yield from (*prompts.concept, *prompts.plain, *prompts.unrelated)
