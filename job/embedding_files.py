"""The files of token embeddings: embeddings.safetensors, and for several trigger words also one for each.

ComfyUI and A1111 insert all rows of a file where a prompt contains its name, so a word cannot be used alone if its rows
are in one file with those of other words.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from artifact.artifact import Artifact
from artifact.metadata import counted_through
from job.output_folder import OutputFolder


def write_embedding_files(artifact: Artifact, output: OutputFolder) -> None:
    """Write embeddings.safetensors, and embeddings/NAME.safetensors for each of several trigger words. Does nothing
    without tokens."""
    if not artifact.tokens:
        return
    artifact.write_embeddings(output.embeddings)
    shutil.rmtree(output.embeddings_apart, ignore_errors=True)  # of a run that was resumed
    counts = {trigger: len(tokens) for trigger, tokens in artifact.triggers.items() if tokens}
    if len(counts) < 2:
        return
    output.embeddings_apart.mkdir()
    names, ends = file_names(list(counts)), accumulate(counts.values())
    for (trigger, count), end in zip(counts.items(), ends, strict=True):
        rows = {encoder: table[end - count : end] for encoder, table in artifact.tokens.items()}
        description = artifact.description and replace(artifact.description, triggers=counted_through({trigger: count}))
        apart = replace(artifact, tokens=rows, description=description)
        apart.write_embeddings(output.embeddings_apart / f"{names[trigger]}.safetensors")


def file_names(triggers: Sequence[str]) -> dict[str, str]:
    """Return different file names by trigger word, without characters that file names lack."""
    names: dict[str, str] = {}
    for trigger in triggers:
        plain = "".join(letter for letter in trigger if letter.isalnum() or letter in "-_") or "concept"
        candidates = (plain if number == 1 else f"{plain}-{number}" for number in range(1, len(triggers) + 1))
        used = {name.lower() for name in names.values()}
        names[trigger] = next(name for name in candidates if name.lower() not in used)
    return names
