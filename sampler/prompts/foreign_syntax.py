"""Detects prompt syntax of other programs that has no effect here, and misspelt trigger words."""

import difflib
import re
from collections.abc import Sequence

NETWORK = re.compile(r"<(lora|lyco|lycoris|hypernet|embedding|ti):([^<>:]+)(?::([^<>]*))?>", re.IGNORECASE)
"""The syntax of A1111 and Forge for loading a file: <lora:name:0.8>."""
EMBEDDING = re.compile(r"\bembedding:([\w.-]+)", re.IGNORECASE)
"""The syntax of ComfyUI for an embedding."""
BRACKETED = r"[\[{{<]\s*{trigger}\s*[\]}}>]"
WORD = re.compile(r"[^\W_][\w-]*")
SIMILAR = 0.75
"""Cutoff of difflib's ratio: about one wrong letter in four."""


def prompt_notes(prompt: str, triggers: Sequence[str]) -> list[str]:
    """Return warnings about syntax of other programs in the prompt, and about misspelt trigger words."""
    return [*_networks(prompt), *_brackets(prompt, triggers), *_misspelt(prompt, triggers)]


def _networks(prompt: str) -> list[str]:
    notes = []
    for match in NETWORK.finditer(prompt):
        kind, name, strength = match[1].lower(), match[2].strip(), (match[3] or "").strip()
        advice = f"give the file in lora, and its scale in lora_scale{f' {strength}' if strength else ''}"
        if kind in ("embedding", "ti", "hypernet"):
            advice = "give a LoRA file with the embedding in lora, and write its trigger word"
        notes.append(f"prompt: {match.group()} is treated as text; {advice} ({name})")
    for match in EMBEDDING.finditer(NETWORK.sub(" ", prompt)):
        notes.append(
            f"prompt: {match.group()} is treated as text; give the embedding's file in lora, and write its trigger word"
        )
    return notes


def _brackets(prompt: str, triggers: Sequence[str]) -> list[str]:
    notes = []
    for trigger in triggers:
        for match in re.finditer(BRACKETED.format(trigger=re.escape(trigger)), prompt, re.IGNORECASE):
            notes.append(f"prompt: {match.group()} includes its brackets; write {trigger} without them")
    return notes


def _misspelt(prompt: str, triggers: Sequence[str]) -> list[str]:
    """Warn about words similar to a trigger word that the prompt does not contain."""
    words = list(dict.fromkeys(WORD.findall(NETWORK.sub(" ", prompt))))
    notes = []
    others = [word for word in words if word not in triggers]
    for trigger in triggers:
        if trigger in words or re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", prompt):
            continue
        near = difflib.get_close_matches(trigger.lower(), [word.lower() for word in others], n=1, cutoff=SIMILAR)
        for word in others:
            if near and word.lower() == near[0]:
                notes.append(f"prompt: {word}: did you mean the trigger word {trigger}? It is case-sensitive")
                break
    return notes
