"""The usage recipe for diffusers, by the family's pipeline and the kind of adapter."""

from collections.abc import Iterator, Sequence
from shlex import quote

import diffusers

from families.lora_files import plain_prompt_argument
from families.parts.placeholder_tokens import expand_triggers
from job.report.recipe import PLAIN_LORA, Recipe, Trained, conversion

AS_IT_IS = ("lora", "rslora")
ONTO_THE_BASE = "full"


def has_pipeline(name: str) -> bool:
    """Whether diffusers has a pipeline of this name that loads LoRAs."""
    return hasattr(diffusers, name)


def diffusers_recipe(trained: Trained, scale: float) -> Recipe:
    """Return Python code that generates the prompt, with a note on how to make a file that diffusers can open."""
    kind = trained.adapter
    model = "base-with-change" if kind == ONTO_THE_BASE else trained.base_model
    weights = "weights.safetensors" if kind in AS_IT_IS else PLAIN_LORA
    text = "\n".join(
        [
            *_imports(trained),
            *_vae(trained),
            f'pipe = {trained.pipeline}.from_pretrained({model!r}, {_options(trained)}).to("cuda")',
            *([] if kind in (ONTO_THE_BASE, "none") else _lora(weights, scale)),
            *(_tokens(trained) if trained.encoders else [f"prompt = {trained.prompt!r}"]),
            f'pipe(prompt=prompt{_plain_prompt(trained)}).images[0].save("image.png")',
        ]
    )
    return Recipe("diffusers", _note(trained), text, as_it_is=kind in AS_IT_IS)


def _dtype(trained: Trained) -> str:
    """Return bfloat16 for language models as text encoders, whose hidden states overflow in fp16."""
    return "torch.float16" if trained.encoders else "torch.bfloat16"


def _options(trained: Trained) -> str:
    pinned = trained.revision is not None and trained.adapter != ONTO_THE_BASE
    revision = f"revision={trained.revision!r}, " if pinned else ""
    return f"{revision}{'' if trained.vae is None else 'vae=vae, '}dtype={_dtype(trained)}"


def _vae(trained: Trained) -> list[str]:
    if trained.vae is None:
        return []
    opened = "from_single_file" if _vae_class(trained) == "AutoencoderKL" else "from_pretrained"
    return [f"vae = {_vae_class(trained)}.{opened}({trained.vae!r}, torch_dtype={_dtype(trained)})"]


def _vae_class(trained: Trained) -> str:
    """Return the class of the VAE. AutoModel opens only folders and hub models."""
    return "AutoencoderKL" if trained.vae is not None and trained.vae.endswith(".safetensors") else "AutoModel"


def _note(trained: Trained) -> str:
    base, kind = trained.base_model, trained.adapter
    if kind == ONTO_THE_BASE:
        return (
            "diffusers cannot open the change of all weights. Merge it into the base model first: python -m artifact "
            f"merge weights.safetensors --weights 1 --onto {quote(base)} --output base-with-change"
        )
    if kind == "none":
        return "The embeddings, with the base model of the training."
    if kind not in AS_IT_IS:
        return conversion("diffusers", trained)
    what = "The LoRA and the embeddings" if trained.encoders else "The LoRA"
    return f"{what}, with the base model of the training."


def _imports(trained: Trained) -> list[str]:
    names = trained.pipeline if trained.vae is None else f"{_vae_class(trained)}, {trained.pipeline}"
    lines = [*(["import re", ""] if trained.encoders else []), "import torch", f"from diffusers import {names}"]
    return [*lines, *(["from safetensors.torch import load_file"] if trained.encoders else []), ""]


def _lora(weights: str, scale: float) -> list[str]:
    return [
        f'pipe.load_lora_weights(".", weight_name={weights!r}, adapter_name="concept")',
        f'pipe.set_adapters(["concept"], adapter_weights=[{scale:g}])',
    ]


def _tokens(trained: Trained) -> list[str]:
    """Return code that adds the tokens to any pipeline with CLIP text encoders; SD3's has no
    `load_textual_inversion`."""
    parts = ", ".join(f"({key!r}, pipe.{encoder}, pipe.{tokenizer})" for key, encoder, tokenizer in _readers(trained))
    return [
        'rows = load_file("embeddings.safetensors")',
        f'tokens = [f"<s{{i}}>" for i in range(len(rows[{trained.encoders[0]!r}]))]',
        f"for key, encoder, tokenizer in [{parts}]:",
        "    end_of_text = tokenizer.eos_token_id",
        "    tokenizer.add_tokens(tokens)",
        "    encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)",
        "    table = encoder.get_input_embeddings().weight.data",
        "    table[tokenizer.convert_tokens_to_ids(tokens)] = rows[key].to(table)",
        "    # the configurations of SDXL and SD3 name another token",
        '    getattr(encoder, "text_model", encoder).eos_token_id = end_of_text',
        f"prompt, count = {trained.prompt!r}, len(tokens) // {len(trained.triggers)}",
        f"for number, word in {_longest_first(trained.triggers)!r}:",
        '    added = "".join(tokens[number * count : (number + 1) * count])',
        '    prompt = re.sub(rf"(?<!\\w){re.escape(word)}(?!\\w)", added, prompt)',
    ]


def _longest_first(triggers: Sequence[str]) -> list[tuple[int, str]]:
    """Return the trigger words with their numbers, such that no word is replaced inside another one."""
    return sorted(enumerate(triggers), key=lambda pair: -len(pair[1]))


def _readers(trained: Trained) -> Iterator[tuple[str, str, str]]:
    """Yield key, encoder and tokenizer under the names of diffusers' pipelines: text_encoder, text_encoder_2, …"""
    for number, key in enumerate(trained.encoders, start=1):
        suffix = "" if number == 1 else f"_{number}"
        yield key, f"text_encoder{suffix}", f"tokenizer{suffix}"


def _plain_prompt(trained: Trained) -> str:
    """Return the argument for an encoder without tokens, which was trained on the prompt without the trigger words."""
    argument = plain_prompt_argument(trained.pipeline)
    if not trained.encoders or argument is None:
        return ""
    plain = expand_triggers(trained.prompt, {trigger: [" "] for trigger in trained.triggers})
    return f", {argument}={' '.join(plain.split())!r}"
