"""Trains two concepts in one run, with LoRA and with Perfusion, measures how far they mix, and writes the record.

python -m benchmarks.concepts.together [--steps 300] [--concepts 4,5 8,9] [--runs N]

Finished runs are kept: the command goes on where it was stopped. At the end it writes benchmarks/results/together.json
and its section of docs/methods.md.
"""

import statistics
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from textwrap import wrap
from typing import Any

import torch

from benchmarks.concepts.in_process import (
    Planned,
    changes,
    compared,
    drawing_with,
    drawn_by,
    means,
    options,
    samplers,
    table_of_methods,
    trained,
)
from benchmarks.concepts.lottery import GROUNDS, Concept, draw_concept, on_ground
from benchmarks.concepts.measures import bleeding, kept, likeness, on_named_ground
from benchmarks.concepts.methods import PAGE, PERFUSION, TITLE
from benchmarks.concepts.seeds import parse_seeds
from benchmarks.concepts.trial import SAMPLES, SAMPLES_OF_A_GROUND, UNRELATED_PROMPTS
from benchmarks.learning.diffusers_results import Draw
from benchmarks.learning.word_attention import attention_shares
from benchmarks.record import Row
from benchmarks.sections import replace_section
from evaluation.encoders import ClipEncoder
from families.loading.sources import EMBEDDED_BASE
from families.registry import load_base_model
from sampler.sampler import Sampler
from tools.mini_base.scenes import unrelated_prompts

PAIRS = ((4, 5), (8, 9))
"""Tuning seeds: a figure beside an object, so that each has a class word of its own. Rates were chosen on 0 and 1."""
TRIGGERS = ("TOK", "SKS")
STEPS = 300
COMMON: Mapping[str, Any] = {
    "base_model": EMBEDDED_BASE, "train_batch_size": 8, "num_validation_images": 0, "evaluate": "false", "seed": 0,
}  # fmt: skip
OWN, LORA, SAME_LAYERS = "perfusion", "lora, the defaults", "lora, cross-attention-kv"
METHODS: Mapping[str, Mapping[str, Any]] = {
    OWN: PERFUSION,
    LORA: {},
    SAME_LAYERS: {"lora_targets": "cross-attention-kv"},
}
TEXT = """\
Written by `python -m benchmarks.concepts.together --concepts {given} --steps {steps}`. Each pair of tuning concepts
({pairs}), a figure and an object, is trained in one run of {steps} steps with batch size 8; each concept has its own
trigger word and class word. The first LoRA uses the trainer's defaults; `lora_targets: cross-attention-kv` restricts
the second to the layers that Perfusion edits. Perfusion uses a learning rate of 0.3 and gradient
clipping at 10, which were chosen on concepts 0 and 1, and, like the LoRAs, a cosine schedule and `trigger_only_dropout:
0.3`. The table has the mean over the pairs and, in brackets, that of each pair. With one training of each pair, a
difference of 0.1 is not significant.

- bleeding: how far the samples of one concept are shifted towards the images of the other. 0: the samples differ from
  the other concept's images as much as the own training images do; 1: they are equally similar to both. Samples that do
  not yet resemble their own concept count as bleeding, too. The other columns are as above.

{table}

{finding}"""
MEASURED = ("likeness", "likeness_elsewhere", "grounds", "bleeding", "kept", "kB")


def main() -> None:
    """Measure the missing runs; when none is missing, write the record and the section."""
    parser = options(__doc__, STEPS)
    parser.add_argument(
        "--concepts",
        type=parse_pair,
        nargs="+",
        default=PAIRS,
        metavar="A,B",
        help="pairs of concepts, such as 4,5 8,9",
    )
    arguments = parser.parse_args()
    rows = compared("together", arguments, planned(arguments.concepts, arguments.steps))
    words = sorted({draw_concept(seed).class_word for pair in arguments.concepts for seed in pair})
    write_section(PAGE, rows, arguments.steps, reading(words))


def parse_pair(text: str) -> tuple[int, int]:
    """ "4,5" → (4, 5). Raises ValueError where these are not two seeds."""
    first, second = parse_seeds(text)
    return first, second


def planned(pairs: Sequence[tuple[int, int]], steps: int) -> Iterator[Planned]:
    """Every method on every pair."""
    both = cache(samplers)
    for pair in pairs:
        names = f"{pair[0]} and {pair[1]}"
        for name, method in METHODS.items():
            settings = {**COMMON, **method, "max_train_steps": steps}
            made = partial(measure, pair, settings, both)
            yield Planned(f"{name}, concepts {names}", {"method": name, "concepts": names}, settings, made)


def measure(pair: Sequence[int], settings: Mapping[str, Any], both: Callable[[], tuple[Sampler, Sampler]]) -> Row:
    """Train both concepts in one run, each with its trigger and class word, and return means over both."""
    concepts = [draw_concept(seed) for seed in pair]
    described = [
        {"trigger_word": trigger, "class_word": concept.class_word, "folder": trigger}
        for trigger, concept in zip(TRIGGERS, concepts, strict=True)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        data = write_zip(concepts, Path(scratch))
        artifact, size = trained({**settings, "concepts": described}, data, Path(scratch) / "out")
    bare, sampler = both()
    with drawing_with(sampler, artifact) as draw:
        row = judge(concepts, drawn_by(bare), draw)
    return {**row, "kB": size}


def write_zip(concepts: Sequence[Concept], folder: Path) -> Path:
    """Write a zip with a folder for each concept, named after its trigger."""
    path = folder / "data.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for trigger, concept in zip(TRIGGERS, concepts, strict=True):
            with zipfile.ZipFile(concept.write_zip(folder / f"{trigger}.zip", trigger)) as own:
                for name in own.namelist():
                    archive.writestr(zipfile.ZipInfo(f"{trigger}/{name}"), own.read(name))
    return path


def judge(concepts: Sequence[Concept], base: Draw, draw: Draw) -> Row:
    """Return means over the concepts; each one's bleeding is into it, by the pictures of the other. `base` samples the
    untrained base, `draw` the training."""
    embed = ClipEncoder().embed
    taught = [embed(concept.pictures) for concept in concepts]
    rows: list[Row] = []
    for index, concept in enumerate(concepts):
        subject = concept.subjects[0].format(trigger=TRIGGERS[index])
        words = [word for word in concept.grounds for _ in range(SAMPLES_OF_A_GROUND)]
        samples_elsewhere = draw([on_ground(subject, word) for word in words])
        plain, elsewhere = embed(draw([subject] * SAMPLES)), embed(samples_elsewhere)
        own, other = taught[index], taught[1 - index]
        rows.append(
            {
                "likeness": likeness(plain, own),
                "likeness_elsewhere": likeness(elsewhere, own),
                "grounds": on_named_ground(samples_elsewhere, words),
                "bleeding": bleeding(torch.cat([plain, elsewhere]), own, other),
            }
        )
    means = {name: statistics.mean(row[name] for row in rows) for name in rows[0]}
    unrelated = unrelated_prompts(UNRELATED_PROMPTS)
    means["kept"] = kept(embed(draw(unrelated)), embed(base(unrelated)))
    return {name: round(value, 4) for name, value in means.items()}


def reading(words: Sequence[str]) -> dict[str, tuple[float, float]]:
    """By class word: which shares of the untrained base's cross-attention fall on it, and on the positions after it."""
    family = load_base_model(EMBEDDED_BASE, torch.float32)
    found = {}
    for word in words:
        subject = f"a photo of {word}"
        prompts = [subject, *(on_ground(subject, ground) for ground in GROUNDS)]
        own, after = zip(*(attention_shares(family, prompt, word) for prompt in prompts), strict=True)
        found[word] = (statistics.mean(own), statistics.mean(after))
    return found


def write_section(page: Path, rows: Sequence[Row], steps: int, read: Mapping[str, tuple[float, float]]) -> None:
    """Write the table, how Perfusion differs from each LoRA, and how much of the base's attention it can use."""
    findings = [f"Compared with `{other}`, {_finding(rows, other)}" for other in (LORA, SAME_LAYERS)]
    own, lora, same = (means(rows, method, ("bleeding",))["bleeding"] for method in METHODS)
    if lora < same < own:
        findings.append(
            f"So {(same - lora) / (own - lora):.0%} of the difference in bleeding between Perfusion and the default "
            "LoRA comes from the choice of layers."
        )
    shares = "; ".join(f"{word}: {100 * on:.0f} % and {100 * after:.0f} %" for word, (on, after) in read.items())
    limit = (
        "In addition to the paper's values at the word's own position, each layer has one value vector for all "
        "positions after it, which is not part of the paper; the keys are those of the class word's prompt at both. "
        f"Shares of the base model's cross-attention on the class word, and on the positions after it: {shares}."
    )
    pairs = list(dict.fromkeys(row["concepts"] for row in rows))
    text = TEXT.format(
        given=" ".join(pair.replace(" and ", ",") for pair in pairs),
        steps=steps,
        pairs="; ".join(pairs),
        table=table_of_methods(rows, METHODS, MEASURED),
        finding="\n\n".join("\n".join(wrap(each, 118)) for each in (" ".join(findings), limit)),
    )
    replace_section(page, TITLE, "Two concepts in one run", text)


def _finding(rows: Sequence[Row], other: str) -> str:
    own, lora = means(rows, OWN, MEASURED), means(rows, other, MEASURED)
    follows = "as well as" if own["grounds"] >= lora["grounds"] else "less than"
    bleeds = "no more than" if own["bleeding"] <= lora["bleeding"] else "more than"
    return (
        f"Perfusion's file is {lora['kB'] / own['kB']:.0f} times smaller. It follows prompts {follows} the LoRA, and "
        f"mixes its concepts {bleeds} the LoRA; {changes(rows, OWN, other, ('kept', 'likeness'))}."
    )


if __name__ == "__main__":
    main()
