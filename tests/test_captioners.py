"""Captioners: the real classes and processors on tiny models that have learned to tell three colours apart."""

import gc
import importlib.util
import json
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from preprocess.captioners import loading
from preprocess.captioners.cache import CaptionCache, pixel_digest
from preprocess.captioners.captioner import BATCH_SIZE, Captioner, CaptionerError
from preprocess.captioners.captioning import caption_images
from preprocess.captioners.chat_captioner import MAX_PIXELS, ChatCaptioner, ask, at_most, spoken
from preprocess.captioners.choice import CaptionerChoice, Kind
from preprocess.captioners.registry import CAPTIONERS, choose_captioner, load_captioner
from preprocess.captioners.wording import at_most_words, ends_sentence, without_opening, worded

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
    """A plain picture."""
    return Image.new("RGB", size, COLOURS[colour])


def pictures() -> list[Image.Image]:
    """More than one batch, of different sizes; EXPECTED says what they show."""
    return [picture(colour, size) for colour, size in SEEN]


def word_tokenizer(*special: str, starts_with: str = "", **names: Any) -> PreTrainedTokenizerFast:
    """One token a word: <s> 0, <pad> 1, </s> 2, <unk> 3, then `special`, then WORDS."""
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
    """The model, once it tells the colours apart."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        (error := loss()).backward()
        optimizer.step()
        if error.item() < 0.02:
            return model.eval()
    raise AssertionError("the tiny model has not learned the colours")


def saved(folder: Path, *parts: Any) -> Path:
    """Model and processor in one folder, as a hub repository has them."""
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
    begin = len(vocabulary)  # as in the real one, the tokenizer does not know the token that begins a caption
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
    """A chat model that answers QUESTION about pictures of several sizes."""
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
    """As JoyCaption: SigLIP and Llama, and a template that takes plain text and puts the picture in by itself."""
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
    """As most chat models: a template that takes a list of parts. The number of image tokens depends on the shape."""
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


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny captioner, made when first asked for."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            torch.manual_seed(0)
            made[name] = MAKERS[name](tmp_path_factory.mktemp(name))
        return made[name]

    return folder


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def prompt_of(name: str) -> str | None:
    return QUESTION if name.startswith("llava") else None


def load(folder: Path, prompt: str | None = None) -> Captioner:
    return load_captioner(str(folder), prompt=prompt, trust_remote_code=False, device=CPU)


@pytest.mark.parametrize("name", MAKERS)
def test_every_kind_says_what_each_picture_shows(name: str, tiny: Callable[[str], Path]) -> None:
    captioner = load(tiny(name), prompt_of(name))
    assert captioner.caption(pictures()) == EXPECTED
    assert captioner.caption([]) == []


@pytest.mark.parametrize("name", MAKERS)
def test_every_kind_answers_in_the_dtype_of_a_gpu(
    name: str, tiny: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "dtype_for", lambda device: torch.bfloat16)
    captioner: Any = load(tiny(name), prompt_of(name))
    assert captioner.model.dtype == torch.bfloat16
    assert captioner.caption(pictures()) == EXPECTED


def test_the_dtype_follows_the_device() -> None:
    assert loading.dtype_for(torch.device("cuda")) == torch.bfloat16
    assert loading.dtype_for(CPU) == torch.float32


@pytest.mark.parametrize("name", ["blip", "blip2"])
def test_the_words_that_blip_goes_on_from_are_no_part_of_the_caption(name: str, tiny: Callable[[str], Path]) -> None:
    assert load(tiny(name), "a").caption(pictures()) == [caption.removeprefix("a ") for caption in EXPECTED]


def test_a_loaded_captioner_says_which_weights_answer_and_what_they_are_asked(tiny: Callable[[str], Path]) -> None:
    captioner = load(tiny("florence"))
    assert captioner.prompt == "<DETAILED_CAPTION>"
    assert captioner.model_id.startswith(f"{tiny('florence')}@")
    choice = choose_captioner(str(tiny("florence")), prompt=None, trust_remote_code=False)
    assert (choice.model_id, choice.prompt) == (captioner.model_id, captioner.prompt)


def test_a_folder_that_is_filled_anew_is_another_model(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(tiny("blip"), tmp_path / "model")
    before = choose_captioner(str(tmp_path / "model"), prompt=None, trust_remote_code=False)
    (tmp_path / "model" / "model.safetensors").touch()
    assert choose_captioner(str(tmp_path / "model"), prompt=None, trust_remote_code=False) != before


def test_florence_refuses_a_prompt_that_is_no_task_before_it_loads(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "florence2"}')
    for name in ("florence-2", str(tmp_path)):
        with pytest.raises(CaptionerError, match="<DETAILED_CAPTION>.*qwen3-vl"):
            choose_captioner(name, prompt="describe the dog", trust_remote_code=False)


# chat models


@pytest.mark.parametrize(
    ("generated", "answer"),
    [
        ("a dog</s><pad><pad>", "a dog"),
        ("<think>It is a cat? No.</think>a dog</s>", "a dog"),
        ("thought without a beginning</think>\n<|begin_of_box|>a dog<|end_of_box|>", "a dog"),
        ("<think></think>", ""),
        ("<think>It is a", None),
    ],
)
def test_only_what_is_said_is_the_caption(generated: str, answer: str | None) -> None:
    assert spoken(generated, ["</s>", "<pad>", "<think>", "</think>"]) == answer


def test_a_model_that_thinks_too_long_is_refused(tiny: Callable[[str], Path]) -> None:
    captioner = load(tiny("llava-next"), QUESTION)
    assert isinstance(captioner, ChatCaptioner)
    thinking = replace(captioner, conversation=f"{captioner.conversation} <think>\n")
    with pytest.raises(CaptionerError, match="still thinking.*not thinking"):
        thinking.caption(pictures())


@pytest.mark.parametrize("name", ["llava", "llava-next"])
def test_the_conversation_holds_picture_and_question_in_the_form_of_the_template(
    name: str, tiny: Callable[[str], Path]
) -> None:
    conversation = ask(name, transformers.AutoProcessor.from_pretrained(tiny(name)), QUESTION)
    assert conversation.count("<image>") == 1
    assert QUESTION in conversation
    assert "type" not in conversation
    assert conversation.endswith("answer ")


def test_models_that_may_think_are_told_not_to(tiny: Callable[[str], Path]) -> None:
    processor = transformers.AutoProcessor.from_pretrained(tiny("llava-next"))
    processor.chat_template += "{{ '<think></think>' if enable_thinking is defined and not enable_thinking }}"
    assert ask("tiny", processor, QUESTION).endswith("<think></think>")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}{{ m.content[-1].text }}{% endfor %}", "no place for a picture"),
        ("{{ messages[0].content }}", "no place for a picture"),
        (None, "no chat template"),
    ],
)
def test_a_template_without_a_place_for_the_picture_is_refused_before_the_weights_are_read(
    template: str | None, reason: str, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    processor = transformers.AutoProcessor.from_pretrained(tiny("llava"))
    processor.chat_template = processor.tokenizer.chat_template = template
    processor.save_pretrained(tmp_path)
    shutil.copy(tiny("llava") / "config.json", tmp_path)
    with pytest.raises(CaptionerError, match=reason):
        load(tmp_path, QUESTION)


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_large_pictures_are_made_smaller_in_their_proportions(width: int, height: int) -> None:
    image = Image.new("L", (width, height))
    smaller = at_most(image, MAX_PIXELS)
    assert smaller.width * smaller.height <= MAX_PIXELS
    assert (smaller is image) == (width * height <= MAX_PIXELS)
    assert abs(smaller.width * height - smaller.height * width) <= max(width, height)


# names and failures


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("florense", ["did you mean 'florence-2'", "qwen3-vl", "none", "owner/name"]),
        ("quen3-vl", ["did you mean 'qwen3-vl'"]),
        ("zzzzzz", ["is unknown. Known: florence-2"]),
        ("./no/such/folder", ["is unknown", "or a folder"]),
        ("", ["is unknown"]),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_ones(name: str, words: list[str]) -> None:
    with pytest.raises(CaptionerError) as refused:
        choose_captioner(name, prompt=None, trust_remote_code=False)
    assert all(word in str(refused.value) for word in words)


def test_every_known_captioner_can_be_chosen_without_loading_anything() -> None:
    for name, known in CAPTIONERS.items():
        choice = choose_captioner(name, prompt=None, trust_remote_code=True)
        assert choice.source == choice.model_id == known.model_id
        assert choice.trust_remote_code == (name == "cogvlm")  # the others have native classes
    names = ["florence-2", "florence-2-base", "blip", "blip-2", "qwen3-vl", "glm-4v", "cogvlm", "joycaption", "smolvlm"]
    assert list(CAPTIONERS) == names


def test_choosing_a_known_captioner_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from preprocess.captioners.registry import choose_captioner;"
        "import preprocess.captioners.captioning;"
        "choose_captioner('qwen3-vl', prompt=None, trust_remote_code=False);"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_captioner_that_cannot_be_downloaded_names_the_other_ways() -> None:
    with pytest.raises(CaptionerError, match=r"Florence-2-large: cannot be downloaded.*captioner: none.*\.txt"):
        load_captioner("florence-2", prompt=None, trust_remote_code=False, device=CPU)


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is installed")
def test_a_missing_package_is_named(tmp_path: Path) -> None:
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 37, "num_heads": 2, "out_hidden_size": 32}
    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 32}
    transformers.Qwen3VLConfig(text_config=text, vision_config=vision).save_pretrained(tmp_path)
    saved(tmp_path, word_tokenizer("<|image_pad|>"), transformers.Qwen2VLImageProcessor(patch_size=16))
    with pytest.raises(CaptionerError, match=r"Install torchvision \(the release made for torch 2.*captioner: none"):
        load(tmp_path)


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "telepathy"}')
    with pytest.raises(CaptionerError, match="cannot load it as a captioner"):
        load(tmp_path)


def test_a_language_model_without_eyes_is_refused(tmp_path: Path) -> None:
    transformers.LlamaConfig(vocab_size=32, hidden_size=32).save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(CaptionerError, match="nothing to read pictures with"):
        load(tmp_path)


def test_weights_that_are_missing_are_not_made_up(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(tiny("blip"), tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    removed = next(name for name in weights if name.startswith("vision_model.encoder"))
    del weights[removed]
    save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    with pytest.raises(CaptionerError, match=f"lacks 1 weights of the model, such as {removed}"):
        load(tmp_path / "model")


def test_pickled_weights_are_not_read(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(tiny("blip"), tmp_path / "model")
    torch.save(load_file(tmp_path / "model" / "model.safetensors"), tmp_path / "model" / "pytorch_model.bin")
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(CaptionerError, match="safetensors"):
        load(tmp_path / "model")


def test_a_picture_that_the_processor_cannot_take_is_an_error_of_the_captioner(tiny: Callable[[str], Path]) -> None:
    captioner: Any = load(tiny("llava-next"), QUESTION)
    broken = replace(captioner, conversation=captioner.conversation.replace("<image>", ""))
    with pytest.raises(CaptionerError, match="fails on the pictures.*captioner: none"):
        broken.caption(pictures())


COGVLM_CODE = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM

class TinyCogVLMConfig(LlamaConfig):
    model_type = "tiny_cogvlm"

class CogVLMForCausalLM(LlamaForCausalLM):
    config_class = TinyCogVLMConfig

    def build_conversation_input_ids(self, tokenizer, *, query, history, images):
        ids = torch.tensor(tokenizer(query).input_ids)
        pixels = torch.tensor(list(images[0].resize((1, 1)).getdata())[0]) / 255.0
        return {"input_ids": ids, "token_type_ids": ids * 0, "attention_mask": ids * 0 + 1, "images": [pixels]}

    def generate(self, input_ids, token_type_ids, attention_mask, images, **settings):
        if self.config.outdated:
            raise AttributeError("'tuple' object has no attribute 'get_seq_length'")
        answer = torch.tensor([[5 + int(images[0][0].argmax()), 2]])
        return torch.cat([input_ids, answer], dim=1)
"""


def make_cogvlm(folder: Path, outdated: bool) -> Path:
    """A repository that brings its own code, as the original CogVLM does: a config without a native model_type."""
    tokenizer = word_tokenizer()
    config = transformers.LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, **{})
    saved(folder, transformers.LlamaForCausalLM(config), tokenizer)
    written = json.loads((folder / "config.json").read_text())
    written |= {"model_type": "tiny_cogvlm", "architectures": ["CogVLMForCausalLM"], "outdated": outdated}
    names = {"AutoConfig": "tiny_code.TinyCogVLMConfig", "AutoModelForCausalLM": "tiny_code.CogVLMForCausalLM"}
    (folder / "config.json").write_text(json.dumps({**written, "auto_map": names}))
    (folder / "tiny_code.py").write_text(COGVLM_CODE)
    return folder


@pytest.fixture
def _modules_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code of repositories is copied here rather than into the user's cache."""
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])


def test_cogvlm_is_refused_unless_its_code_is_trusted(tmp_path: Path) -> None:
    for name in ("cogvlm", str(make_cogvlm(tmp_path / "cogvlm", outdated=False))):
        with pytest.raises(CaptionerError, match="glm-4v.*trust_remote_code: true.*captioner: none"):
            load_captioner(name, prompt=None, trust_remote_code=False, device=CPU)


@pytest.mark.usefixtures("_modules_in")
def test_cogvlm_answers_when_its_code_is_trusted(tmp_path: Path) -> None:
    folder = make_cogvlm(tmp_path / "cogvlm", outdated=False)
    captioner = load_captioner(str(folder), prompt=QUESTION, trust_remote_code=True, device=CPU)
    assert captioner.caption(pictures()) == [colour for colour, _ in SEEN]


@pytest.mark.usefixtures("_modules_in")
def test_code_of_cogvlm_that_no_longer_runs_names_its_successor(tmp_path: Path) -> None:
    folder = make_cogvlm(tmp_path / "outdated", outdated=True)
    captioner = load_captioner(str(folder), prompt=QUESTION, trust_remote_code=True, device=CPU)
    with pytest.raises(CaptionerError, match="get_seq_length.*glm-4v"):
        captioner.caption(pictures())


# cache

CHOICE = CaptionerChoice("source", "tiny/model", Kind.CHAT, QUESTION, trust_remote_code=False)


@dataclass
class Onlooker:
    """Answers with the size of each picture, and counts how often it was loaded and what it was shown at once."""

    model_id: str = CHOICE.model_id
    prompt: str = CHOICE.prompt
    loaded: int = 0
    batches: list[int] = field(default_factory=list)

    def load(self) -> "Onlooker":
        self.loaded += 1
        return self

    def caption(self, images: Sequence[Image.Image]) -> list[str]:
        self.batches.append(len(images))
        return [f"{image.width} wide" for image in images]


def captioned(
    images: Iterable[tuple[str, Image.Image]],
    choice: CaptionerChoice,
    load: Callable[[], Captioner],
    cache: CaptionCache,
) -> dict[str, str]:
    return dict(caption_images(images, choice, load, cache))


def widths(*values: int) -> Iterator[tuple[str, Image.Image]]:
    return ((f"{value}.png", Image.new("RGB", (value, 20))) for value in values)


def test_a_second_run_takes_everything_from_the_cache_and_loads_nothing(
    tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    choice = choose_captioner(str(tiny("blip")), prompt=None, trust_remote_code=False)
    named = [(f"{index}.png", image) for index, image in enumerate(pictures())]
    cache = CaptionCache(tmp_path / "captions")
    first = caption_images(named, choice, lambda: choice.load(CPU), cache)
    assert list(first) == [(name, text) for (name, _), text in zip(named, EXPECTED, strict=True)]
    renamed = [(f"other {name}", image) for name, image in named]
    again = caption_images(renamed, choice, lambda: pytest.fail("the model is loaded again"), cache)
    assert [text for _, text in again] == EXPECTED


def test_only_the_unknown_pictures_are_shown_to_the_model(tmp_path: Path) -> None:
    onlooker, cache = Onlooker(), CaptionCache(tmp_path)
    captioned(widths(10, 30, 50), CHOICE, onlooker.load, cache)
    captions = captioned(widths(*range(10, 100, 10)), CHOICE, onlooker.load, cache)
    assert captions == {f"{width}.png": f"{width} wide" for width in range(10, 100, 10)}
    assert list(captions) == [f"{width}.png" for width in range(10, 100, 10)]
    assert onlooker.batches == [3, 2, 3, 1]
    assert onlooker.loaded == 2


@pytest.mark.parametrize("change", [{"prompt": "another question"}, {"model_id": "another/model"}])
def test_another_prompt_or_model_is_asked_anew(change: dict[str, Any], tmp_path: Path) -> None:
    onlooker, cache = Onlooker(), CaptionCache(tmp_path)
    captioned(widths(10), CHOICE, onlooker.load, cache)
    captioned(widths(10), replace(CHOICE, **change), onlooker.load, cache)
    assert onlooker.loaded == 2


@pytest.mark.parametrize(
    "damage",
    [b"", b'{"caption": "half', b"\xff\xfe", b"[]", b'{"caption": "of something else"}', b'{"caption": 3}'],
)
def test_a_damaged_entry_is_made_again(damage: bytes, tmp_path: Path) -> None:
    onlooker, cache = Onlooker(), CaptionCache(tmp_path)
    captioned(widths(10), CHOICE, onlooker.load, cache)
    (entry,) = tmp_path.iterdir()
    entry.write_bytes(damage)
    assert captioned(widths(10), CHOICE, onlooker.load, cache) == {"10.png": "10 wide"}
    assert onlooker.loaded == 2
    assert json.loads(entry.read_text())["caption"] == "10 wide"


def test_an_empty_answer_is_remembered_too(tmp_path: Path) -> None:
    cache = CaptionCache(tmp_path)
    cache.write("pixels", "model", "prompt", "")
    assert cache.read("pixels", "model", "prompt") == ""
    assert cache.read("pixels", "model", "other prompt") is None


def test_what_was_captioned_before_an_error_stays_in_the_cache(tmp_path: Path) -> None:
    def until_damaged() -> Iterator[tuple[str, Image.Image]]:
        yield from widths(*range(10, 10 + BATCH_SIZE))
        raise CaptionerError("the fifth file is damaged")

    onlooker = Onlooker()
    with pytest.raises(CaptionerError, match="fifth"):
        captioned(until_damaged(), CHOICE, onlooker.load, CaptionCache(tmp_path))
    assert len(list(tmp_path.glob("*.json"))) == BATCH_SIZE
    assert not list(tmp_path.glob("*.partial"))


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CaptionerError, match="another cache folder"):
        captioned(widths(10), CHOICE, Onlooker().load, CaptionCache(tmp_path / "file"))


def test_only_a_few_pictures_are_held(tmp_path: Path) -> None:
    alive: list[weakref.ref[Image.Image]] = []
    held: list[int] = []

    def decoded() -> Iterator[tuple[str, Image.Image]]:
        for width in range(10, 10 + 5 * BATCH_SIZE):
            gc.collect()
            held.append(sum(one() is not None for one in alive))
            image = Image.new("RGB", (width, 20))
            alive.append(weakref.ref(image))
            yield f"{width}.png", image
            del image

    captioned(decoded(), CHOICE, Onlooker().load, CaptionCache(tmp_path))
    assert max(held) <= 2 * BATCH_SIZE


def test_the_model_is_let_go_when_all_is_captioned(tmp_path: Path) -> None:
    made: list[weakref.ref[Onlooker]] = []

    def load_onlooker() -> Onlooker:
        onlooker = Onlooker()
        made.append(weakref.ref(onlooker))
        return onlooker

    captioned(widths(10, 20), CHOICE, load_onlooker, CaptionCache(tmp_path))
    assert len(made) == 1
    assert made[0]() is None


def test_pixels_and_shape_make_the_digest() -> None:
    assert pixel_digest(picture("red")) == pixel_digest(picture("red"))
    assert pixel_digest(picture("red")) != pixel_digest(picture("blue"))
    assert pixel_digest(picture("red", (10, 20))) != pixel_digest(picture("red", (20, 10)))


# wording


@pytest.mark.parametrize(
    ("said", "caption"),
    [
        ("The image shows a dog on grass.", "a dog on grass."),
        ("This image features two dogs.", "two dogs."),
        ("The photo depicts a close-up of a dog.", "a dog."),
        ("In this picture, we can see a dog.", "a dog."),
        ("In the image, a dog runs.", "a dog runs."),
        ("This is a photo of a dog.", "a photo of a dog."),
        ("Here is a caption: The image is an illustration of a dog.", "an illustration of a dog."),
        ("there is a arafed man in a suit", "a man in a suit"),
        ("This is blurry.", "This is blurry."),
        ("The painting shows a boat.", "The painting shows a boat."),
        ("  a\n dog ,  a “cat” – and **it’s** `all` .", 'a dog, a "cat" - and it\'s all.'),
        ("a dog a dog a dog on grass", "a dog on grass"),
        ("very very big", "very big"),
        ("A dog sits. A dog sits. A dog sits.", "A dog sits."),
        ("She holds a cat. A cat sleeps.", "She holds a cat. A cat sleeps."),
        ("A dog sits. The grass is", "A dog sits."),
        ('A sign says "Stop!" in red', 'A sign says "Stop!" in red'),
        ("A flag of the U.S. is 1.5 m wide", "A flag of the U.S. is 1.5 m wide"),
        ("The image shows", ""),
        ("", ""),
    ],
)
def test_a_caption_says_only_what_is_there(said: str, caption: str) -> None:
    assert worded(said, at_most_words(50)) == caption


@pytest.mark.parametrize(
    ("said", "most", "caption"),
    [
        ("A dog sits. It looks up. It barks.", 5, "A dog sits."),
        ("A dog sits. It looks up. It barks.", 6, "A dog sits. It looks up."),
        ("A dog that sits on the green grass of a park.", 7, "A dog that sits on the green"),
        ("A dog that sits on the green grass of a park.", 6, "A dog that sits"),
        ("A man, a dog, and a cat sit together.", 5, "A man, a dog"),
        ("Troops of the U.S. Army stand by a wall.", 4, "Troops of the U.S."),
        ("A rope of 1.5 m hangs from a tree.", 4, "A rope of 1.5"),
        ("Dr. Brown sits on a bench. He waits.", 6, "Dr. Brown sits on a bench."),
        ("A dog.", 0, ""),
    ],
)
def test_what_is_too_long_ends_with_a_sentence_or_a_word(said: str, most: int, caption: str) -> None:
    assert worded(said, at_most_words(most)) == caption


def test_any_measure_of_length_can_be_used() -> None:
    assert worded("A dog sits. It looks up.", lambda text: len(text) <= 12) == "A dog sits."


@pytest.mark.parametrize(
    ("word", "ends"),
    [("dog.", True), ('dog."', True), ("dog!", True), ("dog", False), ("1.5", False), ("1.5.", True), ("U.S.", False),
     ("Mr.", False), ("e.g.", False), ("J.", False), ("dog,", False)],
)  # fmt: skip
def test_sentences_end_with_a_full_stop_that_is_no_abbreviation(word: str, ends: bool) -> None:
    assert ends_sentence(word) == ends


PHRASES = [
    "The image shows",
    "This is",
    "a close-up of",
    "a dog",
    "a dog.",
    "A cat sits.",
    "the U.S.",
    "1.5",
    "m",
    "“big”",
]
PHRASES += ["and", "of the", ",", "...", "Dr.", "there is", "image", "!", "**red**", "It is", "In the picture,", "a"]
TEXTS = st.one_of(st.text(max_size=80), st.lists(st.sampled_from(PHRASES), max_size=14).map(" ".join))


@given(TEXTS, st.integers(0, 12))
def test_wording_again_changes_nothing_and_nothing_becomes_longer(said: str, most: int) -> None:
    caption = worded(said, at_most_words(most))
    assert worded(caption, at_most_words(most)) == caption
    assert len(caption) <= len(said)
    assert len(caption.split()) <= most or not caption


@given(st.lists(st.sampled_from(PHRASES), max_size=14).map(" ".join), st.integers(1, 12))
def test_numbers_and_abbreviations_stay_whole(said: str, most: int) -> None:
    words = worded(said, at_most_words(most)).split()
    assert {word.strip(',!."') for word in words if word[0] in "U1"} <= {"U.S", "1.5"}
    assert all(word.rstrip(',!"') in ("U.S.", "U.S...") or "U.S..." in word for word in words if word.startswith("U"))


@given(TEXTS)
def test_an_opening_is_taken_off_in_front_only(said: str) -> None:
    assert said.endswith(without_opening(said))
