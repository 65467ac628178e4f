"""LoRAs that callers of the service name: the operator's tokens are not used for them."""

import pytest

from artifact.errors import ArtifactError
from fetching.rules import FetchRules
from sampler.weights import parse_list, read_weights
from service.job_secrets import Secrets, child_environment
from tests.local_site import Hub
from tests.sampler.test_weights import LORA, cache, hub

__all__ = ["cache", "hub"]
TOKEN = "hf_operator"


def sent(hub: Hub) -> list[bool]:
    """Of each request, whether it had the operator's token."""
    return [TOKEN in str(headers) for _, headers in hub.seen]


def test_the_hub_is_asked_without_the_operators_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.add("me/one", {"any.safetensors": LORA})
    rules = FetchRules.from_environment()
    read_weights("me/one", "1", local_files=False, rules=rules.without_tokens())
    assert hub.seen and not any(sent(hub))
    read_weights("me/one", "1", local_files=False, rules=rules)
    assert any(sent(hub))


def test_a_file_that_was_downloaded_with_a_token_is_not_taken_from_the_cache(hub: Hub) -> None:
    hub.serve("/private.safetensors", LORA)
    rules = FetchRules.from_environment()
    for each in (rules, rules.without_tokens(), rules, rules.without_tokens()):
        read_weights(f"{hub.url}/private.safetensors", "1", local_files=False, rules=each)
    assert len(hub.seen) == 2


def test_the_environment_of_a_callers_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("FETCH_USE_TOKENS", "0")
    rules = FetchRules.from_environment()
    assert (rules.tokens, rules.hub_token) == ({}, False)
    monkeypatch.setenv("FETCH_USE_TOKENS", "1")
    rules = FetchRules.from_environment()
    assert (rules.tokens, rules.hub_token) == ({"huggingface.co": TOKEN}, None)


def test_a_list_without_end() -> None:
    with pytest.raises(ArtifactError, match="starts like a JSON list"):
        parse_list("[" * 100_000, local_files=False)


def test_a_training_knows_whether_its_caller_may_use_the_tokens() -> None:
    for use in (True, False):
        child = child_environment(Secrets(), {"HF_TOKEN": TOKEN}, use_tokens=use)
        assert child == {"HF_TOKEN": TOKEN} | ({} if use else {"FETCH_USE_TOKENS": "0"})
