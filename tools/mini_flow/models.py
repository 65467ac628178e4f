"""The parts of mini-flow that are trained, with random weights: Z-Image's transformer and a Qwen3 as text encoder."""

from diffusers import FlowMatchEulerDiscreteScheduler, ZImageTransformer2DModel
from torch import nn
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

TEXT_WIDTH = 96
SHIFT = 0.7
"""Logarithm of the timesteps' shift at the trained size, 8 × 8 tokens: half of the timesteps have more noise than
0.67."""
SCHEDULE = {
    "shift": 6.0,
    "use_dynamic_shifting": True,
    "base_image_seq_len": 64,
    "base_shift": SHIFT,
    "max_image_seq_len": 4096,
    "max_shift": 1.8,
}
"""The shift by the number of tokens is in use. `shift` is the static one of Z-Image's base model, which distinguishes
it from Turbo."""


def make_transformer() -> ZImageTransformer2DModel:
    """2.7 M parameters: one refiner for each stream, then five joint layers."""
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=144,
        n_layers=5,
        n_refiner_layers=1,
        n_heads=4,
        n_kv_heads=4,
        cap_feat_dim=TEXT_WIDTH,
        axes_dims=[12, 12, 12],
        axes_lens=[640, 64, 64],
    )
    for layer in transformer.all_final_layer.values():
        nn.init.zeros_(layer.linear.weight)
    return transformer


def make_text_encoder(tokenizer: Qwen2Tokenizer) -> Qwen3ForCausalLM:
    """0.2 M parameters: two layers, of which the states of the first are used."""
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=24,
            max_position_embeddings=tokenizer.model_max_length,
            tie_word_embeddings=True,
            initializer_range=0.1,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def make_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """The scheduler for training and sampling."""
    return FlowMatchEulerDiscreteScheduler(**SCHEDULE)
