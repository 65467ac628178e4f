"""Publishes the result of a training to a repository on the Hugging Face hub."""

import os

from huggingface_hub import CommitOperationAdd, HfApi, get_token

from fetching.hub_connection import HUB_ERRORS
from job.output_folder import OutputFolder
from job.publishing.errors import PublishingFailed
from job.publishing.model_card import CardFacts, model_card
from pages.pictures import numbered_pictures
from settings.record import ConfigError
from settings.sections.publishing import TOKEN_VARIABLE, PublishingSection

MAX_SAMPLES = 8


def require_publishable(settings: PublishingSection) -> None:
    """Check, before training, that there is a valid token. Raises ConfigError."""
    if settings.push_to_hub is None:
        return
    if _token() is None:
        raise ConfigError("push_to_hub: needs a token with write permission in the environment variable HF_TOKEN")
    try:
        HfApi(token=_token()).whoami()
    except HUB_ERRORS as error:
        raise ConfigError(f"push_to_hub: {_reason(error)}") from None


def publish(settings: PublishingSection, output: OutputFolder, facts: CardFacts) -> str:
    """Upload weights, embeddings, samples and a model card in one commit. Returns the repository's URL.

    Raises PublishingFailed. The output folder is unchanged.
    """
    assert settings.push_to_hub is not None
    samples = numbered_pictures(output.samples)[:MAX_SAMPLES]  # without the samples of the base and of single steps
    card = model_card(facts, settings.hub_license, samples)
    files = [
        CommitOperationAdd("README.md", card.encode()),
        *(CommitOperationAdd(path.name, path) for path in (output.weights, output.embeddings) if path.exists()),
        *(
            CommitOperationAdd(f"{output.embeddings_apart.name}/{path.name}", path)
            for path in sorted(output.embeddings_apart.glob("*.safetensors"))
        ),
        *(CommitOperationAdd(f"samples/{path.name}", path) for path in samples),
    ]
    api = HfApi(token=_token())
    try:
        address = api.create_repo(settings.push_to_hub, private=settings.hub_private, exist_ok=True)
        api.create_commit(settings.push_to_hub, files, commit_message="LoRA, embeddings, samples and model card")
    except HUB_ERRORS as error:
        raise PublishingFailed(
            f"push_to_hub: {settings.push_to_hub}: {_reason(error)}. The artifact is kept: {output.weights}"
        ) from None
    return str(address)


def _token() -> str | None:
    """Return the token of the job's caller, otherwise that of the environment."""
    return os.environ.get(TOKEN_VARIABLE) or get_token()


def _reason(error: Exception) -> str:
    """Return the reason without headers and URLs, which may contain the token."""
    response = getattr(error, "response", None)
    if response is None:
        return f"the hub cannot be reached ({type(error).__name__})"
    token = "hf_token" if os.environ.get(TOKEN_VARIABLE) else "HF_TOKEN"
    hint = {401: f": {token} is not valid", 403: f": {token} has no write permission there", 404: ": no such owner"}
    return f"the hub answered {response.status_code}{hint.get(response.status_code, '')}"
