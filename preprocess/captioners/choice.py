"""The choice of a captioner, made before any model is loaded."""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """The interface of a captioning model."""

    FLORENCE = "florence"
    BLIP = "blip"
    CHAT = "chat"
    COGVLM = "cogvlm"


FLORENCE_TASKS = ("<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>")
INSTRUCTION = (
    "Describe this picture in one or two plain English sentences, 50 words at most: the subject first, then what it "
    "does and wears, its surroundings, the light and the view. Do not begin with 'The image shows' or the like."
)
DEFAULT_PROMPTS = {
    Kind.FLORENCE: "<DETAILED_CAPTION>",
    Kind.BLIP: "",
    Kind.CHAT: INSTRUCTION,
    Kind.COGVLM: INSTRUCTION,
}


@dataclass(frozen=True)
class CaptionerChoice:
    """A chosen captioner. `source`: the hub id or folder to load from. `model_id` and `prompt`: the cache key of its
    captions."""

    source: str
    model_id: str
    kind: Kind
    prompt: str
    trust_remote_code: bool
