"""Tests of layer names in the file, against those of Stability's SDXL code."""

import pytest

from artifact.names.kohya import kohya_name, module_paths, sgm_block
from families.family import ModelFamily

# diffusers' path in the full-size UNet → the sgm block it comes from (Stability's conversion table, two layers a block)
SDXL_BLOCKS = {
    "down_blocks.0.resnets.0.conv1": "input_blocks.1.0.in_layers.2",
    "down_blocks.0.resnets.1.conv2": "input_blocks.2.0.out_layers.3",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.3.0.op",
    "down_blocks.1.attentions.0.proj_in": "input_blocks.4.1.proj_in",
    "down_blocks.1.attentions.1.proj_in": "input_blocks.5.1.proj_in",
    "down_blocks.1.downsamplers.0.conv": "input_blocks.6.0.op",
    "down_blocks.2.attentions.0.proj_in": "input_blocks.7.1.proj_in",
    "down_blocks.2.attentions.1.proj_in": "input_blocks.8.1.proj_in",
    "mid_block.resnets.0.conv1": "middle_block.0.in_layers.2",
    "mid_block.attentions.0.proj_in": "middle_block.1.proj_in",
    "mid_block.resnets.1.time_emb_proj": "middle_block.2.emb_layers.1",
    "up_blocks.0.attentions.0.proj_in": "output_blocks.0.1.proj_in",
    "up_blocks.0.attentions.2.proj_in": "output_blocks.2.1.proj_in",
    "up_blocks.1.attentions.0.proj_in": "output_blocks.3.1.proj_in",
    "up_blocks.1.resnets.2.conv1": "output_blocks.5.0.in_layers.2",
    "up_blocks.2.resnets.2.conv_shortcut": "output_blocks.8.0.skip_connection",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.2.2.conv",
    "up_blocks.1.upsamplers.0.conv": "output_blocks.5.2.conv",
    "up_blocks.1.resnets.0.norm1": "output_blocks.3.0.in_layers.0",
    "down_blocks.0.resnets.0.norm2": "input_blocks.1.0.out_layers.0",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
}


@pytest.mark.parametrize(("path", "block"), SDXL_BLOCKS.items())
def test_sgm_blocks(path: str, block: str) -> None:
    assert sgm_block(path, layers_per_block=2) == block


def test_a_whole_name() -> None:
    path = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0"
    assert kohya_name(path, 2) == "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_out_0"


def test_all_three_ways_to_name_a_module_lead_to_it(base: ModelFamily) -> None:
    paths = module_paths(base)
    path = "up_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q"
    assert paths["lora_unet_output_blocks_1_1_transformer_blocks_0_attn1_to_q"] == path
    assert paths["lora_unet_up_blocks_0_attentions_1_transformer_blocks_0_attn1_to_q"] == path
    assert paths[f"unet.{path}"] == path


def test_no_two_modules_share_a_name(base: ModelFamily) -> None:
    layers = {path for path in module_paths(base).values()}
    assert len({kohya_name(path, 2) for path in layers}) == len(layers)
