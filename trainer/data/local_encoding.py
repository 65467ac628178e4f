"""Encodes sources to shards of features in this process, one after the other: memory and disk hold one shard's images
at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from families.family import ModelFamily
from preprocess.errors import DatasetError, SetupError
from preprocess.prepare import BaseRequirements
from settings.preparation import DataConfig
from trainer.data.encoding_rounds import Answer, Task, Tell, answer, encode_in_rounds
from trainer.data.feature_encoding import encode_shard
from trainer.data.feature_shards import FeaturePlan, ShardRecord


def encode_features(
    plan: FeaturePlan,
    config: DataConfig,
    base: BaseRequirements,
    family: ModelFamily,
    folder: Path,
    tell: Tell = lambda problem: None,
) -> Iterator[tuple[int, ShardRecord]]:
    """Encode the shards that are not encoded yet. Yields and raises as `encode_in_rounds`."""

    def answers(tasks: Sequence[Task]) -> Iterator[Answer]:
        for task in tasks:
            try:
                encode_shard(task["number"], task["source"], config, base, family, folder, task["state"])
            except SetupError:
                raise
            except DatasetError as error:
                yield answer(task["number"], problem=str(error))
            else:
                yield answer(task["number"])

    return encode_in_rounds(plan, folder, answers, tell)
