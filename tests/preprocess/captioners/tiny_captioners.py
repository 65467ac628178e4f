"""Tiny captioners of every supported kind, which are trained to distinguish three colours."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from preprocess.captioners.chat_captioner import ask

CPU = torch.device("cpu")
COLOURS = {"red": (220, 20, 20), "green": (20, 220, 20), "blue": (20, 20, 220)}
SIZES = ((48, 48), (30, 60), (80, 30))
SEEN = [("red", (40, 60)), ("blue", (64, 64)), ("green", (100, 30)), ("green", (50, 50)), ("red", (33, 77))]
EXPECTED = [f"a {colour} picture" for colour, _ in SEEN]
WORDS = ["a", "red", "green", "blue", "picture", "of", "what", "is", "this", "?", "user", "answer"]
QUESTION = "what is this ?"
PARTS_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %} {{ m.role }} {% for c in m.content %}{% if c.type == 'image' %} <image> "
    "{% else %} {{ c.text }} {% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %} answer {% endif %}"
)
PLAIN_TEMPLATE = (
    "{% for m in messages %} {{ m.role }} {{ '<image> ' if m.role == 'user' }}{{ m.content | trim }}{% endfor %}"
    "{% if add_generation_prompt %} answer {% endif %}"
)
VISION = {"hidden_size": 32, "intermediate_size": 37, "num_attention_heads": 2, "image_size": 32, "patch_size": 16}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
}


def picture(colour: str, size: tuple[int, int] = (48, 48)) -> Image.Image:
    """An image of one colour."""
    return Image.new("RGB", size, COLOURS[colour])


def pictures() -> list[Image.Image]:
    """Return images of different sizes, more than one batch. EXPECTED lists their captions."""
    return [picture(colour, size) for colour, size in SEEN]


def word_tokenizer(*special: str, starts_with: str = "", **names: Any) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per word: <s> 0, <pad> 1, </s> 2, <unk> 3, then `special`, then WORDS."""
    vocabulary = {word: index for index, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", *special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if starts_with:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{starts_with} $A", special_tokens=[(starts_with, vocabulary[starts_with])]
        )
    known = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{**known, **names})


def taught(model: Any, loss: Callable[[], torch.Tensor]) -> Any:
    """Train the model until it distinguishes the colours, and return it."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        (error := loss()).backward()
        optimizer.step()
        if error.item() < 0.02:
            return model.eval()
    raise AssertionError("the tiny model has not learned the colours")


def saved(folder: Path, *parts: Any) -> Path:
    """Save model and processor in one folder, in the layout of a hub repository, and return the folder."""
    for part in parts:
        part.save_pretrained(folder)
    return folder


def make_florence(folder: Path) -> Path:
    tokenizer = word_tokenizer("<image>", extra_special_tokens={"image_token": "<image>"})
    side = {"height": 32, "width": 32}
    images = transformers.CLIPImageProcessor(size=side, crop_size=side, do_center_crop=False, image_seq_length=65)
    processor = transformers.Florence2Processor(images, tokenizer, post_processor_config={"pure_text": {}})
    text = {"model_type": "bart", "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": len(tokenizer)}
    text |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    text |= {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "dropout": 0.0}
    lists = {"embed_dim": 16, "patch_size": 7, "patch_stride": 4, "patch_padding": 3, "patch_prenorm": False}
    lists |= {"num_heads": 2, "num_groups": 2, "depths": 1}
    vision = {**{name: [value] for name, value in lists.items()}, "window_size": 4, "projection_dim": 32}
    model = transformers.Florence2ForConditionalGeneration(
        transformers.Florence2Config(text_config=text, vision_config=vision, image_token_id=4)
    )
    task = ["<DETAILED_CAPTION>"] * 3
    inputs = processor(images=[picture(colour) for colour in COLOURS], text=task, return_tensors="pt")
    labels = tokenizer([f"<s> a {colour} picture </s>" for colour in COLOURS], return_tensors="pt").input_ids
    return saved(folder, taught(model, lambda: model(**inputs, labels=labels).loss), processor)


def make_blip(folder: Path) -> Path:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokenizer = transformers.BertTokenizerFast(vocab={word: index for index, word in enumerate(vocabulary)})
    images = transformers.BlipImageProcessor(size={"height": 32, "width": 32})
    processor = transformers.BlipProcessor(images, tokenizer)
    begin = len(vocabulary)  # as in the real model, the tokenizer lacks the token that begins a caption
    text = {"vocab_size": begin + 1, "hidden_size": 32, "encoder_hidden_size": 32, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "intermediate_size": 37, "max_position_embeddings": 64}
    text |= {"bos_token_id": begin, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    model = transformers.BlipForConditionalGeneration(
        transformers.BlipConfig(text_config=text, vision_config={**VISION, "num_hidden_layers": 1})
    )
    captions = [f"a {colour} picture" for colour in COLOURS]
    inputs = processor(images=[picture(colour) for colour in COLOURS], text=captions, return_tensors="pt")
    inputs["input_ids"][:, 0] = begin
    return saved(folder, taught(model, lambda: model(**inputs, labels=inputs["input_ids"]).loss), processor)


def make_blip2(folder: Path) -> Path:
    tokenizer = word_tokenizer("<image>", starts_with="</s>", bos_token="</s>")
    images = transformers.BlipImageProcessor(size={"height": 32, "width": 32})
    processor = transformers.Blip2Processor(images, tokenizer, num_query_tokens=4)
    text: dict[str, Any] = {
        "model_type": "opt",
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 37,
        "num_hidden_layers": 1,
    }
    text |= {"num_attention_heads": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 64, "dropout": 0.0}
    text |= {"bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1}
    bridge: dict[str, Any] = {
        "hidden_size": 32,
        "encoder_hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    bridge |= {"intermediate_size": 37, "cross_attention_frequency": 1, "initializer_range": 0.2}
    bridge |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = transformers.Blip2ForConditionalGeneration(
        transformers.Blip2Config(
            vision_config={**VISION, "num_hidden_layers": 1, "initializer_range": 0.2},
            qformer_config=bridge,
            text_config=text,
            num_query_tokens=4,
            image_token_index=4,
            initializer_range=0.2,
        )
    )
    captions = [f"a {colour} picture </s>" for colour in COLOURS]
    inputs = processor(images=[picture(colour) for colour in COLOURS], text=captions, return_tensors="pt")
    labels = inputs["input_ids"].clone()
    labels[:, :5] = -100
    return saved(folder, taught(model, lambda: model(**inputs, labels=labels).loss), processor)


def taught_to_answer(model: Any, processor: Any) -> Any:
    """Train a chat model to answer QUESTION about images of several sizes, and return it."""
    conversation = ask("tiny", processor, QUESTION)
    shown = [(colour, size) for size in SIZES for colour in COLOURS]
    processor.tokenizer.padding_side = "left"
    inputs = processor(
        images=[[picture(colour, size)] for colour, size in shown],
        text=[f"{conversation} a {colour} picture </s>" for colour, _ in shown],
        add_special_tokens=not conversation.startswith("<s>"),
        return_tensors="pt",
        padding=True,
    )
    labels = inputs["input_ids"].clone()
    labels[:, :-4] = -100
    return taught(model, lambda: model(**inputs, labels=labels).loss)


def make_llava(folder: Path) -> Path:
    """A model like JoyCaption: SigLIP and Llama. Its template takes plain text and inserts the image token itself."""
    tokenizer = word_tokenizer("<image>", starts_with="<s>", extra_special_tokens={"image_token": "<image>"})
    images = transformers.SiglipImageProcessor(size={"height": 32, "width": 32})
    settings = {"patch_size": 16, "vision_feature_select_strategy": "full"}
    processor = transformers.LlavaProcessor(images, tokenizer, chat_template=PLAIN_TEMPLATE, **settings)
    config = transformers.LlavaConfig(
        text_config={**LLAMA, "vocab_size": len(tokenizer)},
        vision_config={**VISION, "model_type": "siglip_vision_model", "num_hidden_layers": 2},
        image_token_id=4,
        image_seq_length=4,
        vision_feature_select_strategy="full",
    )
    return saved(folder, taught_to_answer(transformers.LlavaForConditionalGeneration(config), processor), processor)


def make_llava_next(folder: Path) -> Path:
    """A model whose template takes a list of parts, as most do. The number of image tokens depends on the shape."""
    tokenizer = word_tokenizer("<image>", starts_with="<s>", extra_special_tokens={"image_token": "<image>"})
    grids = [[32, 64], [64, 32], [64, 64]]
    images = transformers.LlavaNextImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=grids
    )
    settings = {"patch_size": 16, "vision_feature_select_strategy": "full"}
    processor = transformers.LlavaNextProcessor(images, tokenizer, chat_template=PARTS_TEMPLATE, **settings)
    config = transformers.LlavaNextConfig(
        text_config={**LLAMA, "vocab_size": len(tokenizer)},
        vision_config={**VISION, "model_type": "siglip_vision_model", "num_hidden_layers": 2},
        image_token_id=4,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=grids,
    )
    model = transformers.LlavaNextForConditionalGeneration(config)
    return saved(folder, taught_to_answer(model, processor), processor)


MAKERS = {
    "florence": make_florence,
    "blip": make_blip,
    "blip2": make_blip2,
    "llava": make_llava,
    "llava-next": make_llava_next,
}
