"""Tests of randomly drawn concepts and their measures, and that nothing is tuned on the concepts for reporting."""

import random
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageStat
from torch import Tensor
from torch.nn import functional

from benchmarks.concepts.bases import bar_rows
from benchmarks.concepts.lottery import KINDS, PICTURES, contact_sheet, draw_concept, new_pictures, on_ground
from benchmarks.concepts.measures import MEASURES, copies, gain, ground_of, kept, likeness, on_named_ground
from benchmarks.concepts.page import by_concept, summary, write_page
from benchmarks.concepts.report import Job, Way, main, measured
from benchmarks.concepts.seeds import REPORTING, TUNING, parse_seeds
from benchmarks.concepts.trial import SAMPLES, ConceptJudge, fingerprint
from benchmarks.finished_runs import FinishedRuns, Unfinished
from benchmarks.learning.contenders import Usage
from tests.conftest import PROJECT

ONE_OF_EACH = TUNING[: len(KINDS)]


def test_the_same_seed_draws_the_same_concept() -> None:
    for seed in ONE_OF_EACH:
        assert fingerprint(draw_concept(seed)) == fingerprint(draw_concept(seed))
    assert len({fingerprint(draw_concept(seed)) for seed in TUNING}) == len(TUNING)


def test_kinds_take_turns_in_both_sets_of_seeds() -> None:
    for seeds in (TUNING, REPORTING):
        assert len(seeds) == 16
        kinds = [seed % len(KINDS) for seed in seeds]
        assert all(kinds.count(kind) == 4 for kind in range(len(KINDS)))
    assert [draw_concept(seed).kind for seed in ONE_OF_EACH] == list(KINDS)


@pytest.mark.parametrize("seed", TUNING)
def test_captions_name_the_ground_that_is_drawn(seed: int) -> None:
    concept = draw_concept(seed)
    assert len(concept.pictures) == len(concept.captions) == PICTURES
    assert len(set(concept.grounds)) >= 4
    asked = [re.search(r" on an? (\w+) background$", caption) for caption in concept.captions]
    words = [match[1] for match in asked if match]
    assert set(words) == set(concept.grounds) or len(concept.grounds) > len(set(words)) >= 4
    assert on_named_ground(concept.pictures, words) == 1.0
    assert all("{trigger}" in caption for caption in concept.captions)
    assert on_ground("a photo of X", "orange") == "a photo of X on an orange background"


def test_a_concept_is_written_as_users_and_as_diffusers_want_it(tmp_path: Path) -> None:
    concept = draw_concept(TUNING[0])
    with zipfile.ZipFile(concept.write_zip(tmp_path / "concept.zip", "TOK")) as archive:
        assert len(archive.namelist()) == 2 * PICTURES
        assert archive.read("0.txt").decode().startswith("a photo of TOK on a")
    lines = (concept.write_folder(tmp_path / "photos", "TOK") / "metadata.jsonl").read_text().splitlines()
    assert len(lines) == PICTURES and '"text": "a photo of TOK on' in lines[0]


@pytest.mark.parametrize("seed", ONE_OF_EACH)
def test_a_mask_is_white_on_what_is_not_ground(seed: int, tmp_path: Path) -> None:
    concept = draw_concept(seed)
    with zipfile.ZipFile(concept.write_zip(tmp_path / "concept.zip", "TOK", masks=True)) as archive:
        masks = [Image.open(archive.open(f"{index}_mask.png")) for index in range(PICTURES)]
    for mask, picture in zip(masks, concept.pictures, strict=True):
        share = ImageStat.Stat(mask).mean[0] / 255
        assert share == 1 if concept.kind == "style" else 0.05 < share < 0.6
        ground = np.asarray(picture)[np.asarray(mask) == 0]
        assert concept.kind == "style" or np.ptp(ground, axis=0).max() <= 8  # of 255 levels


def test_the_ground_is_judged_by_the_border() -> None:
    picture = Image.new("RGB", (64, 64), (60, 90, 225))
    assert ground_of(picture) == "blue"
    picture.paste((255, 0, 0), (10, 10, 54, 54))
    assert ground_of(picture) == "blue"
    picture.paste((240, 215, 50), (0, 0, 64, 32))
    assert ground_of(picture) is None
    assert on_named_ground([picture, Image.new("RGB", (64, 64), (240, 135, 30))], ["blue", "orange"]) == 0.5
    assert {ground_of(Image.new("RGB", (64, 64), word)) for word in ("black", "white")} == {"black", "white"}


def test_likeness_is_one_for_what_is_as_alike_as_the_pictures() -> None:
    pictures = _unit(torch.randn(8, 16, generator=torch.Generator().manual_seed(0)) + 1)
    assert likeness(pictures[:1], pictures[:1].repeat(3, 1)) == pytest.approx(1.0)
    assert likeness(-pictures, pictures) < 0
    assert gain(pictures, -pictures, pictures) == pytest.approx(2 * likeness(pictures, pictures))
    assert kept(pictures, pictures) == pytest.approx(1.0, abs=1e-5)


def test_only_near_duplicates_are_copies() -> None:
    concept = draw_concept(TUNING[0])
    noisy = [Image.blend(one, Image.new("RGB", one.size, "grey"), 0.02) for one in concept.pictures]
    assert copies(noisy, concept.pictures) == 1.0
    assert copies(draw_concept(TUNING[4]).pictures, concept.pictures) == 0.0
    assert copies(concept.pictures[:4], concept.pictures[4:]) == 0.0


class _FakeTraining:
    """Returns training images for prompts with the trigger word, and the same grey image for all others."""

    def __init__(self, pictures: Sequence[Image.Image]) -> None:
        self._pictures = pictures

    def __call__(self, prompts: Sequence[str]) -> list[Image.Image]:
        grey = Image.new("RGB", (96, 96), "grey")
        return [self._pictures[index % PICTURES] if "TOK" in prompt else grey for index, prompt in enumerate(prompts)]


def _embed(pictures: Sequence[Image.Image]) -> Tensor:
    small = [torch.tensor(list(one.convert("RGB").resize((4, 4)).tobytes())).float() for one in pictures]
    return _unit(torch.stack(small) - 100)


def _unit(vectors: Tensor) -> Tensor:
    return functional.normalize(vectors, dim=-1)


def test_a_judge_finds_copies_of_the_training_pictures() -> None:
    concept = draw_concept(TUNING[2])
    judge = ConceptJudge(_embed, lambda prompts: [Image.new("RGB", (96, 96), "grey")] * len(prompts), "TOK")
    found = judge.measure(concept, _FakeTraining(concept.pictures))
    assert found.copies == 1.0
    assert found.kept == pytest.approx(1.0, abs=1e-5)
    assert min(found.likeness, found.likeness_elsewhere) > 1.0
    assert 0 <= found.grounds < 1
    assert judge.subjects(concept, SAMPLES)[1] == "a photo of a square in the style of TOK"


@pytest.mark.parametrize("seed", ONE_OF_EACH)
def test_new_pictures_of_a_concept_are_none_of_those_for_training(seed: int) -> None:
    concept, new = draw_concept(seed), new_pictures(seed, 3)
    assert draw_concept(seed, PICTURES + 3).pictures == (*concept.pictures, *new)
    assert not {one.tobytes() for one in new} & {one.tobytes() for one in concept.pictures}


def test_a_report_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def trained(way: Way, *others: object) -> dict[str, float]:
        made.append(1)
        return dict.fromkeys(MEASURES, len(made) / 10)

    monkeypatch.setattr("benchmarks.concepts.report._trained", trained)
    way, job = Way("a way", lambda *others: Usage(0, 0)), Job((0, 1), 2, 5)
    with pytest.raises(Unfinished):
        measured([way], job, FinishedRuns(tmp_path / "runs", at_most=3))
    rows = measured([way], job, FinishedRuns(tmp_path / "runs"))
    assert len(made) == len(rows) == 4
    mean, worst, spread = summary(rows)
    assert mean["likeness"] == 0.25 and worst["likeness"] == 0.15 and worst["copies"] == 0.35
    assert spread["likeness"] == pytest.approx(0.071)
    assert [row["concept"] for row in by_concept(rows)] == ["0: figure", "1: object"]
    settings = {
        "command": "the command",
        "seeds": "0 to 1",
        "training_seeds": 2,
        "steps": 5,
        "samples": 8,
        "unrelated": 16,
        "evaluator": "mini-sdxl",
        "base": "mini-flow",
        "commits": "none",
    }
    write_page(tmp_path / "page.md", rows, bar_rows("mini-flow"), settings, for_tuning=True)
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "Settings may be chosen by these seeds" in text and "| 0: figure | a way |" in text
    assert "5 steps on mini-flow" in text and "| bar | worst | 0.65 |" in text
    assert "Written by:\n\n    the command\n" in text and "## Differences" not in text
    other = [{**row, "way": "other", "likeness": row["likeness"] + 0.1, "kept": 0.5} for row in rows]
    write_page(tmp_path / "page.md", [*rows, *other], [], settings, for_tuning=False)
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "From a way: mean" in text and "| other | **+0.100 ± 0.000** |" in text and "| +0.250 ± 0.141 |" in text


def test_the_page_names_the_command_that_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measures = dict.fromkeys(MEASURES, 0.5)
    monkeypatch.setattr("benchmarks.concepts.report._trained", lambda *others: measures)
    monkeypatch.setattr("benchmarks.concepts.report.FINISHED", tmp_path)
    options = f"--training-seeds 1 --seeds 0,2 --steps 7 --base mini-flow --page {tmp_path / 'page.md'}"
    monkeypatch.setattr("sys.argv", ["report", *options.split()])
    main()
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert f"    python -m benchmarks.concepts.report {options}\n" in text
    assert "1 training seed each, 7 steps on mini-flow" in text


def test_a_script_for_sdxl_is_not_compared_on_a_base_of_flow_matching(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["report", "--base", "mini-flow", "--script", "train.py"])
    with pytest.raises(SystemExit):
        main()
    assert "--script only supports SDXL, so it cannot be compared on mini-flow" in capsys.readouterr().err


def test_a_sheet_shows_every_picture() -> None:
    assert contact_sheet((0, 1)).size == (8 * 96, 2 * 96)
    assert parse_seeds("0-2,7") == (0, 1, 2, 7)


RESERVED = "|".join(map(str, REPORTING))
NAMED = re.compile(rf"(?<![\w.,])(?:{RESERVED})(?![\w.,]?\d)")
"""A reporting seed that is not part of another number."""
ABOUT_CONCEPTS = re.compile(r"draw_concept|concept[ _-]?seed|\bconcepts? \d|lottery|\bseeds\b", re.IGNORECASE)
TUNED_PLACES = ("*.yaml", "*.yml", "*.py", "*.sh", "*.toml", "Makefile")
KNOWING = ("benchmarks/concepts/", "tests/benchmarks/test_concept_lottery.py")
"""Files that may name reporting seeds: those of the package that reports on them, and this file."""
REPORTING_TESTS = "tests/learning/"
"""Tests that may use the reporting seeds, by the name REPORTING."""


def _lines_that_name_a_reporting_seed(text: str) -> Iterator[str]:
    """Yield the lines of a settings file or program that are about concepts or seeds and contain a reporting seed.

    The number alone is not sufficient: settings count steps and pixels in thousands, too.
    """
    for line in text.splitlines():
        if ABOUT_CONCEPTS.search(line) and NAMED.search(line):
            yield line.strip()


def _programs_and_settings() -> Iterator[tuple[str, str]]:
    """Yield path and text of all programs and settings files, except those in KNOWING."""
    folders = [path for path in PROJECT.iterdir() if path.is_dir() and path.name[0] not in "._"]
    for pattern in TUNED_PLACES:
        found = [*PROJECT.glob(pattern)]
        for folder in folders:
            if folder.name not in ("outputs", "docs", "assets"):
                found += folder.rglob(pattern)
        for path in found:
            place = path.relative_to(PROJECT).as_posix()
            if not place.startswith(KNOWING):
                yield place, path.read_text(encoding="utf-8")


def test_nothing_is_tuned_on_the_reporting_seeds() -> None:
    named = [
        f"{place}: {line}"
        for place, text in _programs_and_settings()
        for line in _lines_that_name_a_reporting_seed(text)
    ]
    assert not named, "concepts that are for reporting alone are named here"


def test_only_tests_of_learning_use_the_reporting_seeds() -> None:
    using = [place for place, text in _programs_and_settings() if re.search(r"concepts\.seeds import.*REPORTING", text)]
    assert all(place.startswith(REPORTING_TESTS) for place in using)


def test_the_rule_finds_a_reporting_seed() -> None:
    seed = random.Random(0).choice(REPORTING)
    for line in (f"seeds: [3, {seed}]", f"draw_concept({seed})", f"# chosen on concept {seed}", f"concept_seed={seed}"):
        assert list(_lines_that_name_a_reporting_seed(line))
    for line in (
        "max_train_steps: 1000",
        "seed: 0",
        "seed: 10001",
        "learning_rate: 0.1000  # any seed",
        "seed * 1000.5",
    ):
        assert not list(_lines_that_name_a_reporting_seed(line))
