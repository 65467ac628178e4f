"""Builds the tokenizer for the captions in the layout of Qwen2's: byte-level BPE, and Qwen3's chat template."""

import random
from pathlib import Path

from tokenizers import pre_tokenizers
from transformers import Qwen2Tokenizer

from tools.mini_base.scenes import caption, training_scene
from tools.mini_base.vocabulary import ORDINARY_TEXTS
from tools.mini_flow.captions import ORDINARY_NOUNS

SEED = 22
SIZE = 800
"""Maximum number of entries: 256 bytes, pieces of words, words."""
CAPTIONS, OFTEN = 8_000, 50
"""Number of captions from which words are learned, and number of repetitions of ordinary words."""
MAX_LENGTH = 512
ROLES = ("user", "assistant")
CHAT_MARKS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n {{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""Qwen3's template with a space before the message, so that words have the same token in every position."""


def make_tokenizer(work: Path, count: int = CAPTIONS) -> None:
    """Write `work`/tokenizer, trained on `count` captions."""
    rng = random.Random(SEED)
    texts = [f" {caption(training_scene(rng), rng)}" for _ in range(count)]
    words = [*(f" {word}" for word in (*ORDINARY_TEXTS, *ORDINARY_NOUNS)), *ROLES]
    made = Qwen2Tokenizer().train_new_from_iterator(
        [*texts, *words * OFTEN],
        SIZE,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    made.add_special_tokens({"additional_special_tokens": list(CHAT_MARKS)})
    made.chat_template = TEMPLATE
    made.model_max_length = MAX_LENGTH
    made.save_pretrained(work / "tokenizer")
