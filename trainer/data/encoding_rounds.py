"""The shards of a folder of features, whatever encodes them: a broken one is named, and the others are done.

What encodes answers to each shard by a line. Shards of stores that could not be read are asked for again after the
others, since stores fail for a while.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypedDict

from preprocess.errors import DatasetError, SetupError
from preprocess.name_lists import first_names
from preprocess.sources.references import is_remote
from trainer.data.feature_encoding import begun
from trainer.data.feature_shards import FeaturePlan, ShardRecord, read_record, read_shard, record_of

ROUNDS = 3
"""How often a shard of a store is tried that could not be read."""


class Task(TypedDict):
    """One shard, as what encodes gets it."""

    number: int
    source: str


class Answer(TypedDict):
    """What became of a shard: "" in all three where its record is written. `problem`: of this shard. `setup`: what no
    shard can be encoded with. `trace`: of an error that no input explains."""

    number: int
    problem: str
    setup: str
    trace: str


class ShardsMissing(DatasetError):
    """Shards that could not be encoded, after all others were. The message names the first of them."""


Answers = Callable[[Sequence[Task]], Iterator[Answer]]
Tell = Callable[[str], object]
"""Is given a line for each shard that cannot be read, when it is met."""


def answer(number: int, *, problem: str = "", setup: str = "", trace: str = "") -> Answer:
    """What became of a shard; by its number alone, it is done."""
    return {"number": number, "problem": problem, "setup": setup, "trace": trace}


def encode_in_rounds(
    plan: FeaturePlan, folder: Path, answers: Answers, tell: Tell
) -> Iterator[tuple[int, ShardRecord]]:
    """Yields the number and record of every shard: first of those that are done already, then as they are.

    Raises DatasetError for a folder that was begun otherwise, SetupError at once where no shard can be encoded, and
    ShardsMissing at the end for sources that could not be read. What is done stays.
    """
    with begun(plan, folder):
        pending = [number for number in range(len(plan.sources)) if not record_of(folder, number).is_file()]
        for number in sorted(set(range(len(plan.sources))) - set(pending)):
            yield number, read_shard(folder, number)
        if pending:
            yield from _in_rounds(plan.sources, pending, folder, answers, tell)


def _in_rounds(
    sources: Sequence[str], numbers: Sequence[int], folder: Path, answers: Answers, tell: Tell
) -> Iterator[tuple[int, ShardRecord]]:
    problems: dict[int, str] = {}
    pending = list(numbers)
    for attempt in range(1, ROUNDS + 1):
        for got in answers([Task(number=each, source=sources[each]) for each in pending]):
            number = int(got["number"])
            _require_answer(got, sources[number])
            problems[number] = got["problem"]
            if not got["problem"]:
                yield number, read_record(folder, number)  # a cluster writes more than this process could check
                continue
            again = attempt < ROUNDS and is_remote(sources[number])
            tell(got["problem"] + ("; it is tried again after the others" if again else ""))
        pending = [each for each in pending if problems[each] and is_remote(sources[each])]
        if not pending:
            break
    if lines := [text for text in problems.values() if text]:
        count = f"{len(lines)} of {len(sources)} shards are not encoded; the same command goes on with them: "
        raise ShardsMissing(count + first_names(list(dict.fromkeys(lines)), "; "))


def _require_answer(got: Answer, source: str) -> None:
    if got["trace"]:
        raise RuntimeError(f"{source}, in its worker:\n{got['trace']}")
    if got["setup"]:
        raise SetupError(got["setup"])
