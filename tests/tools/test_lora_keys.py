"""Tests that the list of key patterns in docs/artifact.md is that of the code."""

from tests.conftest import PROJECT
from tools.lora_keys import TARGET, page


def test_the_page_is_current() -> None:
    text = TARGET.read_text(encoding="utf-8")
    assert TARGET == PROJECT / "docs" / "artifact.md"
    assert page(text) == text
    assert "| `transformer.transformer_blocks.N.attn.to_q` | `lora_unet_double_blocks_N_img_attn_qkv` |" in text
