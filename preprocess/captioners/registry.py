"""The list of known captioners. Any other model is given by hub id or folder."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from preprocess.captioners.captioner import OTHER_WAYS, CaptionerError
from preprocess.captioners.choice import DEFAULT_PROMPTS, FLORENCE_TASKS, CaptionerChoice, Kind


@dataclass(frozen=True)
class KnownCaptioner:
    """A model with a short name. `note`: licence, size, GPU memory. `prompt`: the model's own prompt, None for the
    default."""

    model_id: str
    kind: Kind
    note: str
    prompt: str | None = None


DEFAULT_CAPTIONER = "florence-2"
COMMIT_DIGITS = 12
"""Digits of a commit in the identity of a model, as git shows them."""
CAPTIONERS: Mapping[str, KnownCaptioner] = {
    "florence-2": KnownCaptioner(
        "florence-community/Florence-2-large", Kind.FLORENCE, "MIT, 0.8 B, 2 GB: fast and literal"
    ),
    "florence-2-base": KnownCaptioner(
        "florence-community/Florence-2-base", Kind.FLORENCE, "MIT, 0.2 B, 1 GB: also without a GPU"
    ),
    "blip": KnownCaptioner(
        "Salesforce/blip-image-captioning-large", Kind.BLIP, "BSD-3, 0.5 B, 2 GB: about ten words, also without a GPU"
    ),
    "blip-2": KnownCaptioner(
        "Salesforce/blip2-opt-2.7b", Kind.BLIP, "MIT, OPT part non-commercial, 3.7 B, 8 GB: one short sentence"
    ),
    "qwen3-vl": KnownCaptioner(
        "Qwen/Qwen3-VL-4B-Instruct", Kind.CHAT, "Apache-2.0, 4 B, 10 GB, needs torchvision: follows instructions"
    ),
    "glm-4v": KnownCaptioner(
        "zai-org/GLM-4.6V-Flash", Kind.CHAT, "MIT, 9 B, 20 GB, needs torchvision: the successor of CogVLM"
    ),
    "cogvlm": KnownCaptioner(
        "THUDM/cogvlm-chat-hf", Kind.COGVLM, "CogVLM licence, 17 B, 38 GB: runs code from its repository"
    ),
    "joycaption": KnownCaptioner(
        "fancyfeast/llama-joycaption-beta-one-hf-llava",
        Kind.CHAT,
        "Llama 3.1 licence, 8 B, 18 GB: made for the captions of training images",
        "Write a detailed description for this image in 50 words or less.",
    ),
    "smolvlm": KnownCaptioner(
        "HuggingFaceTB/SmolVLM2-2.2B-Instruct", Kind.CHAT, "Apache-2.0, 2.2 B, 5 GB, needs torchvision and num2words"
    ),
}
TASK_KINDS = {"florence2": Kind.FLORENCE, "blip": Kind.BLIP, "blip-2": Kind.BLIP}


def choose_captioner(name: str, *, prompt: str | None, trust_remote_code: bool) -> CaptionerChoice:
    """Resolve `name`: one of CAPTIONERS, a hub id ("owner/name"), or a folder with a model.

    `prompt` None: the default of the model. `trust_remote_code` has no effect on models with a native class. Raises
    CaptionerError for an unknown name, a prompt that the model cannot take, and untrusted code. Downloads at most
    config.json, for a model without a short name.
    """
    if known := CAPTIONERS.get(name):
        source, kind, usual = known.model_id, known.kind, known.prompt
        trust_remote_code = trust_remote_code and kind is Kind.COGVLM
    else:
        _require_form(name)
        source, kind, usual = name, _kind(name), None
    if kind is Kind.COGVLM and not trust_remote_code:
        raise CaptionerError(_untrusted(name))
    prompt = prompt or usual or DEFAULT_PROMPTS[kind]
    if kind is Kind.FLORENCE and prompt not in FLORENCE_TASKS:
        raise CaptionerError(_no_task(name, prompt))
    return CaptionerChoice(source, identity(source), kind, prompt, trust_remote_code)


def identity(source: str) -> str:
    """Return the identity of a model for cached captions, without asking the hub.

    That of a folder includes its files' sizes and times, and that of a hub model the commit that was downloaded last,
    since both may change. A hub model that was not downloaded yet is its id.
    """
    folder = Path(source)
    if folder.is_dir():
        files = sorted(path for path in folder.iterdir() if path.is_file())
        facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        return f"{folder.resolve()}@{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}"
    config = try_to_load_from_cache(source, "config.json")
    return f"{source}@{Path(config).parent.name[:COMMIT_DIGITS]}" if isinstance(config, str) else source


def _require_form(name: str) -> None:
    """Raises CaptionerError for a name that is neither a folder nor has the form of a hub id."""
    if not (name and Path(name).is_dir()) and not re.fullmatch(r"\w[\w.-]*/[\w.-]+", name):
        raise CaptionerError(_unknown(name))


def _kind(source: str) -> Kind:
    from transformers import PretrainedConfig

    from preprocess.captioners.loading import loading_errors

    with loading_errors(source):
        config: dict[str, Any] = PretrainedConfig.get_config_dict(source)[0]
    if any(str(name).startswith("CogVLM") for name in config.get("architectures") or ()):
        return Kind.COGVLM
    return TASK_KINDS.get(config.get("model_type", ""), Kind.CHAT)


def _unknown(name: str) -> str:
    near = get_close_matches(name.lower(), CAPTIONERS, n=1, cutoff=0.5)
    return (
        f"captioner {name!r} is unknown{f'; did you mean {near[0]!r}?' if near else '.'} "
        f"Known: {', '.join(CAPTIONERS)}, none; or give a hub id (owner/name), or a folder with a model."
    )


def _untrusted(name: str) -> str:
    return (
        f"captioner {name!r}: transformers has no class for the original CogVLM; it runs Python code from its "
        "repository, written for much older versions. Choose glm-4v, its successor with a native class, or set "
        f"`trust_remote_code: true` if you have read that code. {OTHER_WAYS}"
    )


def _no_task(name: str, prompt: str) -> str:
    return (
        f"captioner {name!r}: Florence-2 does not support free prompts such as {prompt!r}, only tasks: "
        f"{', '.join(FLORENCE_TASKS)}. Captioners that follow an instruction: qwen3-vl, glm-4v, joycaption, smolvlm."
    )
