"""Prompt encoding of FLUX.2: Qwen3's chat template for klein, Mistral's for dev."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE
from torch import Tensor
from transformers import Mistral3ForConditionalGeneration, Qwen3ForCausalLM

from families.parts.chat_prompts import chat_text, chosen_states, padded_ids

IMAGE_MARK = "[IMG]"
"""Placeholder of an image in Mistral's template. It is removed from prompts, as in diffusers."""


class KleinText:
    """Qwen3, without its thinking mode."""

    model_class: ClassVar[Any] = Qwen3ForCausalLM
    layers: ClassVar[tuple[int, ...]] = (9, 18, 27)
    length: ClassVar[int] = 512

    def width(self, config: Mapping[str, Any]) -> int:
        """The width of the concatenated states, from the model's configuration."""
        return len(self.layers) * int(config["hidden_size"])

    def count(self, tokenizer: Any, prompt: str) -> int:
        """The number of tokens of the prompt in its template."""
        return len(tokenizer(chat_text(tokenizer, prompt, thinking=False)).input_ids)

    def states(self, model: Any, tokenizer: Any, prompts: Sequence[str]) -> Tensor:
        """(B, 512, 3D)."""
        texts = [chat_text(tokenizer, prompt, thinking=False) for prompt in prompts]
        return chosen_states(model, *padded_ids(tokenizer, texts, self.length), self.layers)


class DevText:
    """Mistral Small 3, with a system message to describe images. Its tokenizer is that of its processor."""

    model_class: ClassVar[Any] = Mistral3ForConditionalGeneration
    layers: ClassVar[tuple[int, ...]] = (10, 20, 30)
    length: ClassVar[int] = 512

    def width(self, config: Mapping[str, Any]) -> int:
        """The width of the concatenated states, from the model's configuration."""
        return len(self.layers) * int(config["text_config"]["hidden_size"])

    def count(self, tokenizer: Any, prompt: str) -> int:
        """The number of tokens of the prompt with the system message."""
        batch = tokenizer.apply_chat_template([_messages(prompt)], tokenize=True, return_dict=True)
        return len(batch["input_ids"][0])

    def states(self, model: Any, tokenizer: Any, prompts: Sequence[str]) -> Tensor:
        """(B, 512, 3D)."""
        batch = tokenizer.apply_chat_template(
            [_messages(prompt) for prompt in prompts],
            add_generation_prompt=False,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            padding="max_length",
            truncation=True,
            max_length=self.length,
        )
        return chosen_states(model, batch["input_ids"], batch["attention_mask"], self.layers)


def _messages(prompt: str) -> list[dict[str, Any]]:
    parts = {"system": SYSTEM_MESSAGE, "user": prompt.replace(IMAGE_MARK, "")}
    return [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in parts.items()]


KLEIN_TEXT, DEV_TEXT = KleinText(), DevText()
