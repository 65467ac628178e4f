"""Captioners with a chat template: any image-text-to-text model of transformers."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from jinja2 import TemplateError
from PIL import Image

from preprocess.captioners.captioner import OTHER_WAYS, CaptionerError
from preprocess.captioners.generation import generate, in_batches

MAX_PIXELS = 768 * 768  # some models make a token of every 28×28 pixels, however large the image is
SYSTEM_MESSAGE = "You are a helpful image captioner."
THOUGHT_START, THOUGHT_END = "<think>", "</think>"
BOX_TOKENS = ("<|begin_of_box|>", "<|end_of_box|>")
PRINTED_LIST = re.compile(r"""['"]type['"]\s*:""")


@dataclass(frozen=True)
class ChatCaptioner:
    """Qwen-VL, GLM-V, SmolVLM, LLaVA (JoyCaption) and similar models. `conversation`: `prompt` in the model's chat
    format.

    The tokenizer of `processor` must pad on the left, so that every answer begins right after its prompt.
    """

    model_id: str
    prompt: str
    model: Any
    processor: Any
    conversation: str

    def caption(self, images: Sequence[Image.Image]) -> list[str]:
        """Return one caption per image, in order. Raises CaptionerError."""
        return in_batches(self.model_id, images, self._caption_batch)

    def _caption_batch(self, images: Sequence[Image.Image]) -> list[str]:
        tokenizer = self.processor.tokenizer
        begun = bool(tokenizer.bos_token) and self.conversation.startswith(tokenizer.bos_token)
        inputs = self.processor(
            text=[self.conversation] * len(images),
            images=[[at_most(image, MAX_PIXELS)] for image in images],
            padding=True,
            add_special_tokens=not begun,
            return_tensors="pt",
        )
        answered = generate(self.model, inputs)
        start = 0 if self.model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
        return [self._answer(text) for text in tokenizer.batch_decode(answered[:, start:], skip_special_tokens=False)]

    def _answer(self, generated: str) -> str:
        special = [token.content for token in self.processor.tokenizer.added_tokens_decoder.values() if token.special]
        thinking = THOUGHT_START if self.conversation.rstrip().endswith(THOUGHT_START) else ""
        answer = spoken(thinking + generated, special)
        if answer is None:
            raise CaptionerError(
                f"{self.model_id}: its reasoning exceeds the token limit of a caption. Choose its instruct variant, "
                f"without reasoning. {OTHER_WAYS}"
            )
        return answer


def spoken(generated: str, special_tokens: Sequence[str]) -> str | None:
    """Return a generated text without reasoning and control tokens, None when the reasoning does not end.

    Reasoning is removed first: its marks are special tokens in some vocabularies, and without marks it looks like an
    answer.
    """
    _, ended, rest = generated.rpartition(THOUGHT_END)
    if not ended and THOUGHT_START in generated:
        return None
    for token in (*special_tokens, *BOX_TOKENS):
        rest = rest.replace(token, "")
    return rest.strip()


def at_most(image: Image.Image, pixels: int) -> Image.Image:
    """Return the image, reduced to at most `pixels` pixels with its aspect ratio."""
    scale = sqrt(pixels / (image.width * image.height))
    if scale >= 1:
        return image
    size = max(1, int(image.width * scale)), max(1, int(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


def pad_left(tokenizer: Any) -> None:
    """Set left padding. A tokenizer without a padding token uses its end token, since padding is not attended to."""
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token


def ask(model_id: str, processor: Any, prompt: str) -> str:
    """Format a conversation about one image with the model's chat template, up to the beginning of the answer.

    Raises CaptionerError when the template does not support images.
    """
    if not processor.chat_template:
        raise CaptionerError(f"{model_id}: has no chat template, so it cannot be prompted. {OTHER_WAYS}")
    picture, prompt = str(getattr(processor, "image_token", "")), prompt.strip()
    for written in _conversations(processor, prompt):
        if picture in written and prompt in written and not PRINTED_LIST.search(written.replace(prompt, "")):
            return written
    raise CaptionerError(f"{model_id}: its chat template does not support images. {OTHER_WAYS}")


def _conversations(processor: Any, prompt: str) -> Iterator[str]:
    """Yield the conversation in both message formats of chat templates.

    Most templates take a list of parts. LLaVA conversions of text models (JoyCaption) take plain text and insert the
    image themselves; given a list, they fail or print it as Python source.
    """
    parts = [{"type": "image"}, {"type": "text", "text": prompt}]
    plain = [{"role": "system", "content": SYSTEM_MESSAGE}, {"role": "user", "content": prompt}]
    thoughts = {"enable_thinking": False} if "enable_thinking" in str(processor.chat_template) else {}
    for messages in ([{"role": "user", "content": parts}], plain):
        try:
            yield processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **thoughts)
        except (TemplateError, TypeError):
            continue
