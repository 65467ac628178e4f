"""`python -m trainer.formats`: LoRA files into other tools' formats, looked into, merged, and made smaller."""
