"""Builds CLIP's tokenizers for the captions: byte-level BPE with `</w>`, and some ordinary words."""

import json
import random
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from tools.mini_base.scenes import caption, training_scene

SIZE = 1_100
MAX_LENGTH = 77
START, END = "<|startoftext|>", "<|endoftext|>"
CLIP_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
ORDINARY_TEXTS = (
    "a photo of a person",
    "in the style of",
    "a portrait of a man",
    "a portrait of a woman smiling",
    "a dog",
    "a cat",
    "a toy robot",
    "a painting in the style of",
    "a close up photo",
    "with",
    "and",
    "the",
    "face",
    "object",
    "style",
    "concept",
    "character",
    "statue",
    "low quality, blurry",
    "painting",
    "portrait of an animal",
    "robot",
    "fish",
    "bird",
    "boat",
    "mug",
    "lamp",
    "rocket",
    "bag",
    "mushroom",
    "kite",
    "house",
    "car",
    "tree",
    "flower",
    "creature",
    "monster",
)


def make_tokenizers(work: Path) -> None:
    """Write `work`/tokenizer and `work`/tokenizer_2; the second pads with "!", as SDXL's does."""
    vocabulary, merges = _train()
    for name, pad in (("tokenizer", END), ("tokenizer_2", "!")):
        tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_LENGTH, pad_token=pad)
        tokenizer.save_pretrained(work / name)
        (work / name / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
        lines = [" ".join(merge) for merge in merges]
        (work / name / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]), encoding="utf-8")


def _train() -> tuple[dict[str, int], list[tuple[str, str]]]:
    rng = random.Random(2)
    texts = [caption(training_scene(rng), rng) for _ in range(8000)] + list(ORDINARY_TEXTS) * 50
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=END))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_SPLIT), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE, initial_alphabet=alphabet, end_of_word_suffix="</w>", special_tokens=[], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    merges = [(left, right) for left, right in pairs]
    vocabulary: dict[str, int] = dict(model["vocab"])
    for character in alphabet:
        for entry in (character, f"{character}</w>"):
            vocabulary.setdefault(entry, len(vocabulary))
    for special in (START, END):
        vocabulary.setdefault(special, len(vocabulary))
    return vocabulary, merges
