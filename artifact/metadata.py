"""The description of an artifact in the header of its file: only strings, readable without loading a tensor.

Token embeddings are stored here as base64 of fp32 rows: with unknown tensors in a LoRA file, diffusers ignores the
whole file with only a warning.
"""

import base64
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor

from artifact.errors import ArtifactError
from artifact.layers import DoraLayer, GatedLayer, Layer, LoraLayer
from artifact.words import LONGEST_WORD, Tokens

FORMAT_VERSION = "1"
OWN_KEY = "lora_trainer"
TOKENS_KEY = "lora_trainer.tokens"
TRIGGERS_KEY = "lora_trainer.triggers"
"""Number of tokens per trigger word, only in files that were made from other tools' files."""
TRIGGER_PHRASE = "modelspec.trigger_phrase"
MAX_TOKENS, MOST_WORDS = 1000, 5000
MODELSPEC_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}


@dataclass(frozen=True)
class ArtifactDescription:
    """The description of an artifact.

    `triggers` maps each trigger word to its placeholder tokens; a plain word has none. `config` is the resolved
    configuration.
    """

    family: str
    base_model: str
    base_fingerprint: str
    prediction_type: str
    """epsilon, v_prediction or flow."""
    triggers: dict[str, list[str]]
    steps: int
    config: dict[str, Any] = field(default_factory=dict)
    dataset_digest: str = ""
    recommended_scale: float = 1.0
    sample_prompts: list[str] = field(default_factory=list)
    zero_terminal_snr: bool = False
    format_version: str = FORMAT_VERSION

    @property
    def class_words(self) -> dict[str, str]:
        """Class words ("dog") by trigger word, where they are known."""
        listed = self.config.get("concepts")
        concepts = listed if isinstance(listed, list) and listed else [self.config]
        found = {}
        for concept in concepts:
            if isinstance(concept, dict):  # the header is untrusted
                trigger, word = concept.get("trigger_word"), concept.get("class_word")
                if isinstance(trigger, str) and trigger in self.triggers and isinstance(word, str) and word.strip():
                    found[trigger] = word.strip()
        return found


DESCRIPTION = TypeAdapter(ArtifactDescription)
TRIGGER_COUNTS = TypeAdapter(dict[str, Annotated[int, Field(ge=1, le=MAX_TOKENS)]])


def to_header(
    description: ArtifactDescription,
    tokens: Mapping[str, Tensor],
    layers: Collection[Layer],
    *,
    architecture: str,
    base_model_version: str,
) -> dict[str, str]:
    """Return the header: the description, the tokens, and the keys that other tools show (`modelspec.*`, `ss_*`)."""
    config = description.config
    trigger = ", ".join(description.triggers)
    header = {
        **own_header(description),
        TOKENS_KEY: rows_header(tokens),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{architecture}/{'lora' if layers else 'textual-inversion'}",
        "modelspec.implementation": implementation(sgm_names="xl" in architecture or not layers),
        "modelspec.title": f"{trigger or 'LoRA'} ({description.base_model})",
        "modelspec.resolution": "{0}x{0}".format(trained_side(config)),
        "modelspec.date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        TRIGGER_PHRASE: trigger,
        **network_header(layers),
        "ss_base_model_version": base_model_version,
        "ss_sd_model_name": description.base_model,
        "ss_resolution": trained_side(config),
        "ss_steps": str(description.steps),
        "ss_learning_rate": str(config.get("learning_rate", "")),
        "ss_seed": str(config.get("seed", "")),
    }
    if description.prediction_type in MODELSPEC_PREDICTIONS:  # the specification has no value for flow matching
        header["modelspec.prediction_type"] = MODELSPEC_PREDICTIONS[description.prediction_type]
    return header


def trained_side(config: Mapping[str, Any]) -> str:
    """Return the largest of the resolutions in a run's settings; "" where there is none."""
    sides = config.get("resolution") or ""
    return str(max(sides) if isinstance(sides, list | tuple) else sides)


def implementation(*, sgm_names: bool) -> str:
    """Return the code base whose layer names the tensors use, as in kohya's files: Stability's for SDXL and
    embeddings."""
    return "https://github.com/Stability-AI/generative-models" if sgm_names else "diffusers"


def own_header(description: ArtifactDescription) -> dict[str, str]:
    """Return the header with the description alone."""
    return {OWN_KEY: json.dumps(asdict(description), ensure_ascii=False, sort_keys=True)}


def network_header(layers: Collection[Layer]) -> dict[str, str]:
    """Return kohya's description of the network by the most frequent kind of layer: its own module for plain LoRA,
    LyCORIS otherwise."""
    if not layers or any(isinstance(layer, GatedLayer) for layer in layers):  # kohya has no module for Perfusion
        return {}
    (kind, rank, alpha), _ = Counter((layer.kind, layer.rank, layer.alpha) for layer in layers).most_common(1)[0]
    plain = all(isinstance(layer, LoraLayer) for layer in layers)
    keys = {"ss_network_module": "networks.lora" if plain else "lycoris.kohya"}
    if not plain:
        algorithm = {LoraLayer.kind: "locon", DoraLayer.kind: "locon"}.get(kind, kind)
        keys["ss_network_args"] = json.dumps({"algo": algorithm, "dora_wd": kind == DoraLayer.kind})
    if rank is not None:
        keys |= {"ss_network_dim": str(rank), "ss_network_alpha": str(alpha)}
    return keys


def words_header(triggers: Mapping[str, Sequence[str]], tokens: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the header for trigger words of another tool's file, of whose training there is no description."""
    if not tokens:
        return {}
    counts = {word: len(names) for word, names in triggers.items()}
    return {TRIGGERS_KEY: json.dumps(counts, ensure_ascii=False), TOKENS_KEY: rows_header(tokens)}


def rows_header(tokens: Mapping[str, Tensor]) -> str:
    """Encode token rows (n, d) by encoder name for the header."""
    return json.dumps({name: encode_rows(rows) for name, rows in tokens.items()})


def from_header(header: Mapping[str, str]) -> tuple[ArtifactDescription | None, Tokens]:
    """Parse the description (None for a file of another tool), and the words with their rows, where the header has
    them.

    Raises ArtifactError when the header has this program's keys but is malformed.
    """
    try:
        description = _description(header[OWN_KEY]) if OWN_KEY in header else None
        if description is not None:
            triggers = description.triggers
        elif TRIGGERS_KEY in header:
            triggers = counted_through(TRIGGER_COUNTS.validate_json(header[TRIGGERS_KEY], strict=True))
        else:
            return None, Tokens({}, {})
        rows = {name: decode_rows(rows) for name, rows in json.loads(header.get(TOKENS_KEY, "{}")).items()}
        _require_words(triggers, has_rows=bool(rows))
        return description, Tokens(triggers, rows)
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError, RecursionError) as error:
        if isinstance(error, ArtifactError):
            raise
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ArtifactError(f"the artifact's header is damaged: {place}: {first['msg']}") from error
        raise ArtifactError(f"the artifact's header is damaged: {error}") from error


def _require_words(triggers: Mapping[str, Sequence[str]], *, has_rows: bool) -> None:
    """Raises ArtifactError for empty trigger words, and for more or longer ones than prompts can be searched for."""
    if not all(word.strip() and (placeholders or not has_rows) for word, placeholders in triggers.items()):
        raise ArtifactError("the artifact's header is damaged: an empty trigger word")
    if len(triggers) > MOST_WORDS:
        raise ArtifactError(f"the artifact's header lists {len(triggers):,} trigger words; the limit is {MOST_WORDS:,}")
    if long := next((word for word in triggers if len(word) > LONGEST_WORD), None):
        raise ArtifactError(
            f"the artifact's header has a trigger word of {len(long):,} characters; the limit is {LONGEST_WORD}"
        )


def _description(text: str) -> ArtifactDescription:
    values = json.loads(text)
    if values["format_version"] != FORMAT_VERSION:
        raise ArtifactError(
            f"the artifact's format version is {values['format_version']}, this program supports {FORMAT_VERSION}. Use "
            "a newer version of this program."
        )
    if strange := set(values) - set(ArtifactDescription.__dataclass_fields__):
        raise ArtifactError(f"the artifact's header is damaged: the key {sorted(strange)[0]!r} is unknown")
    description = DESCRIPTION.validate_json(text, strict=True)
    return replace(description, triggers=_in_order_of_rows(description.triggers))


def _in_order_of_rows(triggers: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Sort triggers by their rows: JSON objects are unordered, and <s0> is the first row. Raises ArtifactError for
    other names."""
    numbers = {name: number for number, name in enumerate(f"<s{n}>" for n in range(sum(map(len, triggers.values()))))}
    if sorted(name for names in triggers.values() for name in names) != sorted(numbers):
        raise ArtifactError("the artifact's header is damaged: its placeholder tokens are not <s0>, <s1> …")
    by_first = sorted(triggers, key=lambda word: numbers[triggers[word][0]] if triggers[word] else -1)
    ordered = {word: triggers[word] for word in by_first}
    if [name for names in ordered.values() for name in names] != list(numbers):
        raise ArtifactError(
            "the artifact's header is damaged: the placeholder tokens of a trigger word are not consecutive"
        )
    return ordered


def counted_through(counts: Mapping[str, int]) -> dict[str, list[str]]:
    """Return placeholder tokens by word: {"A": 2, "B": 1} gives {"A": ["<s0>", "<s1>"], "B": ["<s2>"]}."""
    numbers = iter(range(sum(counts.values())))
    return {word: [f"<s{number}>" for number in islice(numbers, count)] for word, count in counts.items()}


def encode_rows(rows: Tensor) -> dict[str, object]:
    """Encode a tensor (n, d) for JSON, as fp32."""
    values = rows.detach().float().cpu().contiguous().numpy()
    return {"shape": list(values.shape), "dtype": "float32", "data": base64.b64encode(values.tobytes()).decode()}


def decode_rows(rows: Mapping[str, Any]) -> Tensor:
    """Return the tensor that `encode_rows` has encoded. Raises ArtifactError, ValueError, KeyError or TypeError."""
    values = np.frombuffer(base64.b64decode(rows["data"], validate=True), dtype="<f4")
    if not np.isfinite(values).all():
        raise ArtifactError("the artifact's header contains token embeddings that are not finite")
    return torch.from_numpy(values.copy()).reshape(rows["shape"])
