"""Tests of the captioners: the real classes and processors, with tiny models trained to distinguish three colours."""

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
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

from preprocess.captioners import loading
from preprocess.captioners.captioner import Captioner, CaptionerError
from preprocess.captioners.chat_captioner import MAX_PIXELS, ChatCaptioner, ask, at_most, spoken
from preprocess.captioners.cogvlm_captioner import tokenizer_of
from preprocess.captioners.kinds import load_captioner
from preprocess.captioners.registry import CAPTIONERS, choose_captioner
from tests.preprocess.captioners.tiny_captioners import (
    CPU,
    EXPECTED,
    MAKERS,
    QUESTION,
    SEEN,
    pictures,
    saved,
    word_tokenizer,
)


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def prompt_of(name: str) -> str | None:
    return QUESTION if name.startswith("llava") else None


def load(folder: Path, prompt: str | None = None) -> Captioner:
    return load_captioner(choose_captioner(str(folder), prompt=prompt, trust_remote_code=False), CPU)


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_every_kind_says_what_each_picture_shows(name: str, tiny_captioner: Callable[[str], Path]) -> None:
    captioner = load(tiny_captioner(name), prompt_of(name))
    assert captioner.caption(pictures()) == EXPECTED
    assert captioner.caption([]) == []


@pytest.mark.parametrize("name", MAKERS)
def test_every_kind_answers_in_the_dtype_of_a_gpu(
    name: str, tiny_captioner: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "dtype_for", lambda device: torch.bfloat16)
    captioner: Any = load(tiny_captioner(name), prompt_of(name))
    assert captioner.model.dtype == torch.bfloat16
    assert captioner.caption(pictures()) == EXPECTED


def test_the_dtype_follows_the_device() -> None:
    assert loading.dtype_for(torch.device("cuda")) == torch.bfloat16
    assert loading.dtype_for(CPU) == torch.float32


@pytest.mark.parametrize("name", ["blip", "blip2"])
def test_the_words_that_blip_goes_on_from_are_no_part_of_the_caption(
    name: str, tiny_captioner: Callable[[str], Path]
) -> None:
    assert load(tiny_captioner(name), "a").caption(pictures()) == [caption.removeprefix("a ") for caption in EXPECTED]


def test_a_loaded_captioner_says_which_weights_answer_and_what_they_are_asked(
    tiny_captioner: Callable[[str], Path],
) -> None:
    captioner = load(tiny_captioner("florence"))
    assert captioner.prompt == "<DETAILED_CAPTION>"
    assert captioner.model_id.startswith(f"{tiny_captioner('florence')}@")
    choice = choose_captioner(str(tiny_captioner("florence")), prompt=None, trust_remote_code=False)
    assert (choice.model_id, choice.prompt) == (captioner.model_id, captioner.prompt)


def test_a_folder_that_is_filled_anew_is_another_model(tiny_captioner: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(tiny_captioner("blip"), tmp_path / "model")
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


def test_a_model_that_thinks_too_long_is_refused(tiny_captioner: Callable[[str], Path]) -> None:
    captioner = load(tiny_captioner("llava-next"), QUESTION)
    assert isinstance(captioner, ChatCaptioner)
    thinking = replace(captioner, conversation=f"{captioner.conversation} <think>\n")
    with pytest.raises(CaptionerError, match="reasoning exceeds .*without reasoning"):
        thinking.caption(pictures())


@pytest.mark.parametrize("name", ["llava", "llava-next"])
def test_the_conversation_holds_picture_and_question_in_the_form_of_the_template(
    name: str, tiny_captioner: Callable[[str], Path]
) -> None:
    conversation = ask(name, transformers.AutoProcessor.from_pretrained(tiny_captioner(name)), QUESTION)
    assert conversation.count("<image>") == 1
    assert QUESTION in conversation
    assert "type" not in conversation
    assert conversation.endswith("answer ")


def test_thinking_is_switched_off(tiny_captioner: Callable[[str], Path]) -> None:
    processor = transformers.AutoProcessor.from_pretrained(tiny_captioner("llava-next"))
    processor.chat_template += "{{ '<think></think>' if enable_thinking is defined and not enable_thinking }}"
    assert ask("tiny", processor, QUESTION).endswith("<think></think>")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}{{ m.content[-1].text }}{% endfor %}", "does not support images"),
        ("{{ messages[0].content }}", "does not support images"),
        (None, "no chat template"),
    ],
)
def test_a_template_without_a_place_for_the_picture_is_refused_before_the_weights_are_read(
    template: str | None, reason: str, tiny_captioner: Callable[[str], Path], tmp_path: Path
) -> None:
    processor = transformers.AutoProcessor.from_pretrained(tiny_captioner("llava"))
    processor.chat_template = processor.tokenizer.chat_template = template
    processor.save_pretrained(tmp_path)
    shutil.copy(tiny_captioner("llava") / "config.json", tmp_path)
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
        load_captioner(choose_captioner("florence-2", prompt=None, trust_remote_code=False), CPU)


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
    with pytest.raises(CaptionerError, match="has no image processor"):
        load(tmp_path)


def test_weights_that_are_missing_are_not_made_up(tiny_captioner: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(tiny_captioner("blip"), tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    removed = next(name for name in weights if name.startswith("vision_model.encoder"))
    del weights[removed]
    save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    with pytest.raises(CaptionerError, match=f"lacks 1 weights of the model, such as {removed}"):
        load(tmp_path / "model")


def test_pickled_weights_are_not_read(tiny_captioner: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(tiny_captioner("blip"), tmp_path / "model")
    torch.save(load_file(tmp_path / "model" / "model.safetensors"), tmp_path / "model" / "pytorch_model.bin")
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(CaptionerError, match="safetensors"):
        load(tmp_path / "model")


def test_a_picture_that_the_processor_cannot_take_is_an_error_of_the_captioner(
    tiny_captioner: Callable[[str], Path],
) -> None:
    captioner: Any = load(tiny_captioner("llava-next"), QUESTION)
    broken = replace(captioner, conversation=captioner.conversation.replace("<image>", ""))
    with pytest.raises(CaptionerError, match="cannot caption the images.*captioner: none"):
        broken.caption(pictures())


COGVLM_CODE = """
import torch
from transformers import LlamaConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

class TinyCogVLMConfig(LlamaConfig):
    model_type = "tiny_cogvlm"

class CogVLMForCausalLM(PreTrainedModel):
    config_class = TinyCogVLMConfig

    def __init__(self, config):
        super().__init__(config)
        self.lm_head = torch.nn.Linear(1, config.vocab_size)
        self.post_init()

    def _init_weights(self, module):
        pass

    def build_conversation_input_ids(self, tokenizer, *, query, history, images):
        ids = torch.tensor(tokenizer(query).input_ids)
        pixels = torch.tensor(list(images[0].resize((1, 1)).getdata())[0]) / 255.0
        return {"input_ids": ids, "token_type_ids": ids * 0, "attention_mask": ids * 0 + 1, "images": [pixels]}

    def prepare_inputs_for_generation(
        self, input_ids, token_type_ids, images=None, past_key_values=None, attention_mask=None, **settings
    ):
        assert input_ids.shape == token_type_ids.shape == attention_mask.shape
        if past_key_values:
            input_ids = input_ids[:, -1:]
        return {"input_ids": input_ids, "images": images, "past_key_values": past_key_values, **settings}

    def forward(self, input_ids, images, past_key_values, use_cache, return_dict):
        if self.config.outdated:
            self._extract_past_from_model_output
        if past_key_values is None:  # the colour of the image, then "picture", then the end
            keys, answer = input_ids[:, None, :, None], 5 + int(images[0][0].argmax())
        else:
            keys = torch.cat([past_key_values[0][0], input_ids[:, None, :, None]], dim=2)
            answer = 2 if int(input_ids[0, -1]) == 8 else 8
        logits = torch.nn.functional.one_hot(torch.tensor([[answer]]), self.config.vocab_size).float()
        return CausalLMOutputWithPast(logits=logits, past_key_values=((keys, keys),))
"""


def make_cogvlm(folder: Path, outdated: bool) -> Path:
    """Write a repository with its own code, as the original CogVLM has: its config has no native model_type."""
    tokenizer = word_tokenizer()
    saved(folder, transformers.LlamaConfig(vocab_size=len(tokenizer), eos_token_id=2), tokenizer)
    head = {"lm_head.weight": torch.zeros(len(tokenizer), 1), "lm_head.bias": torch.zeros(len(tokenizer))}
    save_file(head, folder / "model.safetensors", {"format": "pt"})
    written = json.loads((folder / "config.json").read_text())
    written |= {"model_type": "tiny_cogvlm", "architectures": ["CogVLMForCausalLM"], "outdated": outdated}
    names = {"AutoConfig": "tiny_code.TinyCogVLMConfig", "AutoModelForCausalLM": "tiny_code.CogVLMForCausalLM"}
    (folder / "config.json").write_text(json.dumps({**written, "auto_map": names}))
    (folder / "tiny_code.py").write_text(COGVLM_CODE)
    return folder


@pytest.fixture
def _modules_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the code of repositories be copied into the test's folder instead of the user's cache."""
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])


def test_cogvlm_is_refused_unless_its_code_is_trusted(tmp_path: Path) -> None:
    for name in ("cogvlm", str(make_cogvlm(tmp_path / "cogvlm", outdated=False))):
        with pytest.raises(CaptionerError, match="glm-4v.*trust_remote_code: true.*captioner: none"):
            load_captioner(choose_captioner(name, prompt=None, trust_remote_code=False), CPU)


def test_the_first_cogvlm_has_the_tokenizer_that_its_repositories_lack(tmp_path: Path) -> None:
    for name in ("THUDM/cogvlm-chat-hf", "zai-org/cogvlm-base-490-hf", str(tmp_path / "cogvlm-chat-hf")):
        assert tokenizer_of(name) == "lmsys/vicuna-7b-v1.5"
    word_tokenizer().save_pretrained(tmp_path / "cogvlm-own")
    for name in ("THUDM/cogvlm2-llama3-chat-19B", str(tmp_path / "cogvlm-own")):
        assert tokenizer_of(name) == name


@pytest.mark.usefixtures("_modules_in")
def test_cogvlm_answers_when_its_code_is_trusted(tmp_path: Path) -> None:
    folder = make_cogvlm(tmp_path / "cogvlm", outdated=False)
    captioner = load_captioner(choose_captioner(str(folder), prompt=QUESTION, trust_remote_code=True), CPU)
    assert captioner.caption(pictures()) == [f"{colour} picture" for colour, _ in SEEN]


@pytest.mark.usefixtures("_modules_in")
def test_code_that_imports_what_transformers_no_longer_has_is_not_a_missing_package(tmp_path: Path) -> None:
    folder = make_cogvlm(tmp_path / "cogvlm", outdated=False)
    code = COGVLM_CODE.replace("import CausalLMOutputWithPast", "import CausalLMOutputWithPast, GoneOutput")
    (folder / "tiny_code.py").write_text(code)
    with pytest.raises(CaptionerError, match="does not run with this version of transformers.*GoneOutput.*none"):
        load_captioner(choose_captioner(str(folder), prompt=QUESTION, trust_remote_code=True), CPU)


@pytest.mark.usefixtures("_modules_in")
def test_code_of_cogvlm_that_no_longer_runs_names_its_successor(tmp_path: Path) -> None:
    folder = make_cogvlm(tmp_path / "outdated", outdated=True)
    captioner = load_captioner(choose_captioner(str(folder), prompt=QUESTION, trust_remote_code=True), CPU)
    with pytest.raises(CaptionerError, match="_extract_past_from_model_output.*glm-4v"):
        captioner.caption(pictures())
