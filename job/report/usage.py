"""How to use the artifact, in the words of each tool. What stands here is what docs/artifact.md says, filled in."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """`text` may be copied as it is; `note` says what to do with it."""

    tool: str
    note: str
    text: str


def recipes(base_model: str, triggers: Sequence[str], prompt: str, scale: float) -> list[Recipe]:
    """One for each tool. `prompt` holds a trigger word."""
    trigger = triggers[0] if triggers else "TOK"
    name = "".join(letter for letter in trigger if letter.isalnum() or letter in "-_") or "concept"
    return [
        Recipe(
            "Cog",
            "The predictor knows the trigger word and the scale from the file itself.",
            f"cog run -i prompt={_shell(prompt)} -i lora=@weights.safetensors\n\n# or without a container\n"
            f"python predict.py {_shell(prompt)} --weights weights.safetensors",
        ),
        Recipe(
            "ComfyUI",
            f"weights.safetensors goes to models/loras/{name}.safetensors, embeddings.safetensors to "
            f"models/embeddings/{name}.safetensors. Node: Load LoRA, strength_model {scale:g}, strength_clip 0.",
            prompt.replace(trigger, f"embedding:{name}"),
        ),
        Recipe(
            "A1111, Forge",
            f"weights.safetensors goes to models/Lora/{name}_lora.safetensors, embeddings.safetensors to "
            f"embeddings/{name}.safetensors. Type the name of the embedding where the trigger word would be.",
            f"{prompt.replace(trigger, name)} <lora:{name}_lora:{scale:g}>",
        ),
        Recipe(
            "diffusers",
            "The LoRA and the embeddings, on the base that was trained on.",
            _diffusers(base_model, trigger, prompt, scale),
        ),
    ]


def _diffusers(base_model: str, trigger: str, prompt: str, scale: float) -> str:
    return f"""import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file

pipe = StableDiffusionXLPipeline.from_pretrained({base_model!r}, dtype=torch.float16).to("cuda")
pipe.load_lora_weights("weights.safetensors", adapter_name="concept")
pipe.set_adapters(["concept"], adapter_weights=[{scale:g}])
rows = load_file("embeddings.safetensors")
tokens = [f"<s{{i}}>" for i in range(len(rows["clip_l"]))]
pipe.load_textual_inversion(rows["clip_l"], token=tokens, text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer)
pipe.load_textual_inversion(rows["clip_g"], token=tokens, text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2)
pipe.text_encoder_2.text_model.eos_token_id = pipe.tokenizer_2.eos_token_id  # SDXL's own configuration has it wrong
prompt = {prompt!r}.replace({trigger!r}, "".join(tokens))
pipe(prompt).images[0].save("image.png")"""


def _shell(text: str) -> str:
    """The text in single quotes, as a shell reads it."""
    return "'" + text.replace("'", "'\\''") + "'"
