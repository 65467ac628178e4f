"""Encodes the shards of a folder of features with any engine: an unreadable shard is reported, the others are encoded.

The engine returns an Answer for each shard. Shards of stores that could not be read are tried again after the others,
because stores can fail temporarily.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import TypedDict

from preprocess.errors import DatasetError, SetupError
from preprocess.name_lists import first_names
from preprocess.sources.references import is_remote
from preprocess.sources.stores import local_path, state_of
from preprocess.workers.parallel import ordered_map
from trainer.data.feature_encoding import begun, has_changed
from trainer.data.feature_shards import FeaturePlan, ShardRecord, read_record, read_shard, record_of

AT_ONCE = 16
"""Number of sources whose state is requested at the same time: stores answer slowly."""
ROUNDS = 3
"""Number of attempts to read a shard of a store."""


class Task(TypedDict):
    """One shard, as the engine gets it. `state`: of the source, for the record."""

    number: int
    source: str
    state: str


class Answer(TypedDict):
    """The result of a shard: all three are "" if its record is written. `problem`: an error of this shard. `setup`: an
    error that affects all shards. `trace`: the traceback of an unexpected error."""

    number: int
    problem: str
    setup: str
    trace: str


class ShardsMissing(DatasetError):
    """Raised at the end if shards could not be encoded. The message names the first of them."""


Answers = Callable[[Sequence[Task]], Iterator[Answer]]
Tell = Callable[[str], object]
"""Called with one line for each unreadable shard, at the first attempt."""


def answer(number: int, *, problem: str = "", setup: str = "", trace: str = "") -> Answer:
    """Return the result of a shard. Without an error, it is encoded."""
    return {"number": number, "problem": problem, "setup": setup, "trace": trace}


def encode_in_rounds(
    plan: FeaturePlan, folder: Path, answers: Answers, tell: Tell
) -> Iterator[tuple[int, ShardRecord]]:
    """Yield the number and record of every shard: first those that are already encoded, then each when it is finished.

    Raises DatasetError for a folder with other sources or settings, SetupError immediately if no shard can be encoded,
    and ShardsMissing at the end if sources could not be read. Finished shards are kept, except those whose source has
    changed since.
    """
    with begun(plan, folder):
        states = list(ordered_map(state_of, plan.sources, AT_ONCE))
        for number, source in enumerate(plan.sources):
            record = record_of(folder, number)
            if record.is_file() and has_changed(read_record(folder, number), states[number]):
                tell(f"{source}: has changed since it was encoded; it is encoded again")
                record.unlink()
        pending = [number for number in range(len(plan.sources)) if not record_of(folder, number).is_file()]
        for number in sorted(set(range(len(plan.sources))) - set(pending)):
            yield number, read_shard(folder, number)
        if pending:
            tasks = [Task(number=each, source=plan.sources[each], state=states[each]) for each in pending]
            yield from _in_rounds(tasks, len(plan.sources), folder, answers, tell)


def _in_rounds(
    tasks: Sequence[Task], total: int, folder: Path, answers: Answers, tell: Tell
) -> Iterator[tuple[int, ShardRecord]]:
    """`total`: the number of all shards."""
    sources = {task["number"]: task["source"] for task in tasks}
    problems: dict[int, str] = {}
    pending = list(tasks)
    for _ in range(ROUNDS):
        for got in answers(pending):
            number = int(got["number"])
            _require_answer(got, sources[number])
            if not got["problem"]:
                problems.pop(number, None)
                yield number, read_record(folder, number)  # a cluster writes faster than this process could check
                continue
            line = _named(got["problem"], sources[number])
            if number not in problems:
                tell(line + ("; it is tried again after the others" if _in_a_store(sources[number]) else ""))
            problems[number] = line
        pending = [task for task in pending if task["number"] in problems and _in_a_store(task["source"])]
        if not pending:
            break
    if problems:
        count = f"{len(problems)} of {total} shards are not encoded; the same command continues with them: "
        raise ShardsMissing(count + first_names(list(problems.values()), "; "))


def _named(problem: str, source: str) -> str:
    """Return the problem as one line that begins with the source as given by the user."""
    said = problem
    for name in (source, str(local_path(source)), PurePath(source).name):
        said = said.removeprefix(f"{name}: ")
    return f"{source}: {said.rstrip('.')}"


def _in_a_store(source: str) -> bool:
    return is_remote(source) and local_path(source) is None


def _require_answer(got: Answer, source: str) -> None:
    if got["trace"]:
        raise RuntimeError(f"{source}, in its worker:\n{got['trace']}")
    if got["setup"]:
        raise SetupError(got["setup"])
