"""Initialises placeholder tokens from the training images, before the denoiser is trained.

This needs an image tower that was trained together with a text encoder (CLIP, Radford et al. 2021). The rows are
optimized until the prompt with the trigger is nearer to the images than prompts with other words.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

from families.family import ModelFamily
from families.loading.sources import find_base_model
from preprocess.dataset import PreparedDataset
from settings.record import ConfigError
from trainer.tokens.concept_tokens import ConceptTokens
from trainer.tokens.initialization import END_OF_WORD

IMAGE_TOWER = "image_encoder"
STEPS, WORDS, TEMPERATURE = 60, 32, 0.07
TEMPLATES = ("a photo of {}", "{}", "a picture of {}", "a drawing of {}")
RATE = 0.05
"""Adam's learning rate, as a share of the vocabulary's deviation. With it the norms of the rows stay near those of
words."""


def image_tower(base_model: str) -> Path:
    """Return the folder of the base's image tower. Raises ConfigError, naming the remedy, for a base without one."""
    source = find_base_model(base_model)
    folder = Path(source.location) / IMAGE_TOWER
    if source.kind != "folder" or not folder.is_dir():
        raise ConfigError(
            "token_init: images needs an image encoder that was trained with a text encoder, in the folder "
            f"{IMAGE_TOWER} of the base model, and {base_model} has none; set token_init: words, with a class_word"
        )
    return folder


def start_from_images(
    tokens: ConceptTokens, family: ModelFamily, dataset: PreparedDataset, tower: Path, generator: torch.Generator
) -> None:
    """Optimize the rows of the text encoder that belongs to the tower; those of other encoders do not change.

    Raises ConfigError when the tower belongs to no text encoder of the base.
    """
    images = {trigger: _embed(tower, dataset, trigger) for trigger in tokens.triggers}
    index = _aligned_encoder(family, next(iter(images.values())).shape[1])
    row, encoder, tokenizer = tokens.parameters[index], family.text_encoders[index], family.tokenizers[index]
    words = _some_words(tokenizer, generator)
    spread = float(encoder.get_input_embeddings().weight.detach().float().std(dim=1).mean())
    optimizer = torch.optim.Adam([row], lr=RATE * spread)
    for step in range(STEPS):
        template = TEMPLATES[step % len(TEMPLATES)]
        optimizer.zero_grad()
        _contrast(encoder, tokenizer, template, tokens.triggers, words, images).backward()
        optimizer.step()
    optimizer.zero_grad()


def _contrast(
    encoder: Any,
    tokenizer: Any,
    template: str,
    triggers: Mapping[str, Sequence[str]],
    words: Sequence[str],
    images: Mapping[str, Tensor],
) -> Tensor:
    """Cross-entropy of classifying the images among the prompts of all concepts and of the other words."""
    prompts = [template.format(name) for name in ["".join(each) for each in triggers.values()] + list(words)]
    batch = tokenizer(
        prompts, padding=True, truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
    )
    texts = functional.normalize(encoder(batch.input_ids.to(encoder.device)).text_embeds.float(), dim=-1)
    losses = []
    for place, trigger in enumerate(triggers):
        likeness = images[trigger].to(texts) @ texts.T / TEMPERATURE
        losses.append(functional.cross_entropy(likeness, torch.full((len(likeness),), place, device=texts.device)))
    return torch.stack(losses).mean()


@torch.no_grad()
def _embed(tower: Path, dataset: PreparedDataset, trigger: str) -> Tensor:
    """Return the embeddings of the plain views of a concept's images, as unit vectors (N, P)."""
    files = [dataset.folder / example.views[0].file for example in dataset.largest if example.concept == trigger]
    pictures = []
    for file in files:
        with Image.open(file) as image:
            pictures.append(image.convert("RGB"))
    pixels = CLIPImageProcessorPil.from_pretrained(tower)(pictures, return_tensors="pt").pixel_values
    model = CLIPVisionModelWithProjection.from_pretrained(tower, dtype=torch.float32).eval()
    return functional.normalize(model(pixel_values=pixels).image_embeds, dim=-1)


def _aligned_encoder(family: ModelFamily, width: int) -> int:
    for index, encoder in enumerate(family.text_encoders):
        if getattr(encoder.config, "projection_dim", None) == width and hasattr(encoder, "text_projection"):
            return index
    raise ConfigError(
        f"token_init: images: the image encoder's embeddings have {width} values, and those of no text encoder of the "
        "base model have as many; set token_init: words, with a class_word"
    )


def _some_words(tokenizer: Any, generator: torch.Generator) -> list[str]:
    """Draw random whole words of the vocabulary, as negative examples."""
    known = sorted(name.removesuffix(END_OF_WORD) for name in tokenizer.get_vocab() if name.endswith(END_OF_WORD))
    words = [word for word in known if word.isalpha() and len(word) > 2]
    return [words[place] for place in torch.randperm(len(words), generator=generator)[:WORDS].tolist()]
