"""Tests that benchmarks run, also on a CPU: the form of their results is checked, not the speed."""

from pathlib import Path

import numpy as np
import pytest

from artifact.placement.compilation import Compilation
from benchmarks.finished_runs import FinishedRuns
from benchmarks.learning.contenders import Contender, Usage, same_job, unpack_example
from benchmarks.predicting.compiled_drawing import Case as CompiledCase
from benchmarks.predicting.compiled_drawing import serve, write_loras
from benchmarks.predicting.fewer_bits import difference
from benchmarks.predicting.fewer_bits import measure as measure_bits
from benchmarks.predicting.lora_swap import measure as measure_swap
from benchmarks.predicting.overhead import Case
from benchmarks.predicting.overhead import measure as measure_predictor
from benchmarks.speed.growth import measure as measure_growth
from benchmarks.speed.job import OURS, THEIRS, Phases, Watched, rows_of_pairs, rows_of_phases
from benchmarks.speed.train_step import Case as StepCase
from benchmarks.speed.train_step import measure as measure_steps
from benchmarks.speed.versus_diffusers import measure_speed, write_page
from benchmarks.speed.warm_server import rows_of_ways
from families.family import ModelFamily
from settings.training import build_config
from tests.artifact.test_artifact import make_artifact, write
from tests.tiny_models import write_sdxl


@pytest.mark.slow
def test_a_step_is_measured(tmp_path: Path) -> None:
    cases = [StepCase(64, 2, 4), StepCase(64, 2, 4, gradient_checkpointing="always")]
    row, checkpointed = measure_steps("mini-sdxl", cases, 2, tmp_path)
    assert row["batch"] == 2 and row["rank"] == 4
    assert 0 < row["GFLOP a step"] < checkpointed["GFLOP a step"]
    assert row["images/s"] == pytest.approx(2000 / row["step, ms"], abs=0.06)


def test_the_predictor_is_measured(base: ModelFamily, tmp_path: Path) -> None:
    """The benchmark also asserts that the images are correct."""
    weights = write(make_artifact(base, size=0.02), tmp_path / "weights.safetensors", base)
    drawing = measure_predictor(Case("mini-sdxl", weights, pairs=1, steps=2, outputs=(1, 2)), tmp_path)
    assert [row["outputs"] for row in drawing] == [1, 2]
    assert all(row["sampler, images/s"] > 0 and row["whole request, first picture, s"] > 0 for row in drawing)


def test_exchanging_a_lora_is_measured(tmp_path: Path) -> None:
    """The benchmark also asserts that the base is restored."""
    rows = measure_swap("mini-sdxl", loads=1, swaps=1, folder=tmp_path)
    assert [row["ms"] > 0 for row in rows] == [True] * 5
    assert rows[0]["of a load"] == "100.0%"
    assert rows[-1]["ms"] == pytest.approx(sum(row["ms"] for row in rows[1:4]), abs=0.2)


@pytest.mark.slow
def test_compiled_drawing_is_measured(tmp_path: Path) -> None:
    base = str(write_sdxl(tmp_path / "base"))
    write_loras(base, tmp_path)
    seconds, pictures = serve(CompiledCase(base, 1, 1, 1), tmp_path, Compilation(rank=16, backend="eager"))
    assert all(figure > 0 for figure in seconds.values())
    assert len(pictures) == 4 and np.array_equal(pictures[0], pictures[3])


def test_differences_of_pictures_are_those_of_their_definitions() -> None:
    exact = np.zeros((2, 2, 2, 3))
    ours = exact.copy()
    ours[0] += 2  # everywhere: mean 2, RMS 2
    ours[1, 0] -= 4  # in half: mean 2, RMS 4 / sqrt(2)
    found = difference(ours, exact)
    assert found["mean difference, of 255"] == found["of the worst picture"] == 2
    assert found["PSNR, dB"] == pytest.approx((42.11 + 39.10) / 2, abs=0.06)
    ours[1] = 5
    assert difference(ours, exact)["of the worst picture"] == 5


@pytest.mark.slow
def test_pictures_in_fewer_bits_are_measured(tmp_path: Path) -> None:
    rows = measure_bits(str(write_sdxl(tmp_path / "base")), prompts=1, outputs=1, steps=1)
    found = {row["computed in"]: row["mean difference, of 255"] for row in rows}
    assert len(found) == 4 and 0 < found["fp32, products in fp8"] < found["fp32, another seed"]


def test_phases_of_a_job_lie_between_its_moments() -> None:
    watched = Watched(
        start=(100.0, 0.0),
        stages=[("load", (104.0, 3.0)), ("exit", (105.0, 4.0)), ("train", (105.0, 4.0)), ("exit", (110.0, 8.0))],
        begun=[(106.0, 4.5), (107.0, 5.5), (109.0, 7.0)],
        end=(112.0, 9.0),
    )
    assert watched.phases == {"import": (4, 3), "load": (1, 1), "exit": (2, 1), "first step": (2, 1.5),
                              "steps": (3, 2.5)}  # fmt: skip
    assert watched.parts == {"start": (6, 4.5), "steps": (3, 2.5), "end": (3, 2)}


def test_rows_of_phases_are_medians_and_shares_of_the_whole() -> None:
    cold, warm = {"import": (5.0, 2.0), "steps": (4.0, 4.0)}, {"import": (1.0, 1.0), "steps": (4.0, 3.0)}
    rows = rows_of_phases([cold], [warm, warm, {"import": (9.0, 9.0), "steps": (4.0, 3.0)}])
    assert [row["phase"] for row in rows] == ["import", "steps", "all"]
    assert [row["cold, s"] for row in rows] == [5, 4, 9]
    assert [row["warm, s"] for row in rows] == [1, 4, 5]
    assert [row["share"] for row in rows] == ["25%", "75%", "100%"]


def test_ways_to_start_a_training_are_compared_by_their_parts() -> None:
    def parts(start: float) -> Phases:
        return {"start": (2 * start, start), "load": (1.0, 0.5), "steps": (4.0, 3.0), "end": (2.0, 1.0)}

    (row,) = rows_of_ways({"started": [parts(1), parts(9), parts(5)]})
    assert (row["whole job, s"], row["whole job, CPU s"]) == (16, 9)
    assert (row["start, s"], row["load, CPU s"], row["end, s"]) == (10, 0.5, 2)


def test_two_trainings_are_compared_pair_by_pair() -> None:
    def parts(scale: float) -> Phases:
        return {"start": (4 * scale, 2 * scale), "steps": (6 * scale, 8 * scale)}

    pairs = [{THEIRS: parts(busy), OURS: parts(busy / 2)} for busy in (1.0, 3.0, 2.0)]
    theirs, ours, ratio = rows_of_pairs(pairs)
    assert theirs["whole job, s"] == 20 and ours["whole job, CPU s"] == 10
    assert set(list(ratio.values())[1:]) == {0.5}


def test_the_time_of_a_step_is_apart_from_start_and_end(tmp_path: Path) -> None:
    def contender(name: str, step: float) -> Contender:
        return Contender(name, lambda folder, steps, seed: Usage(5 + step * steps, 100, step * steps))

    theirs, ours, ratio = measure_speed(
        (contender("theirs", 0.2), contender("ours", 0.1)), tmp_path, 3, FinishedRuns(tmp_path)
    )
    assert theirs["step, ms"] == pytest.approx(200)
    assert ours["start and end, s"] == pytest.approx(5)
    assert ratio["step, ms"] == ratio["step, CPU ms"] == pytest.approx(0.5)


def test_the_other_side_gets_the_same_pictures_and_captions(tmp_path: Path) -> None:
    folder = unpack_example(tmp_path / "photos")
    lines = (folder / "metadata.jsonl").read_text().splitlines()
    assert len(lines) == len(list(folder.glob("*.png"))) == 8
    assert all("TOK" in line for line in lines)


def test_the_page_of_the_comparison_has_its_table(tmp_path: Path) -> None:
    settings = {"batch": 8, "rank": 4, "resolution": 64, "pairs": 5, "steps": [20, 80]}
    write_page(tmp_path / "page.md", [{"speed": "ours", "step, ms": 12.0}], settings)
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "| ours | 12 |" in text and "batch 8, rank 4" in text and "5 paired runs of 20 and 80 steps" in text


def test_the_same_job_has_the_steps_of_the_script() -> None:
    """Default losses and dropouts that the script does not have are disabled, so that the compared steps are equal."""
    options = same_job()
    config = build_config({"trigger_word": "TOK", **dict(zip(map(_name, options[::2]), options[1::2], strict=True))})
    assert (config.prior_matching_weight, config.caption_dropout, config.trigger_only_dropout) == (0, 0, 0)
    assert (config.loss_weighting, config.min_snr_gamma, config.lora_targets) == ("min_snr", 5, "attention")


def _name(option: object) -> str:
    return str(option).removeprefix("--")


@pytest.mark.slow
def test_growth_is_measured_at_two_places_of_a_run(tmp_path: Path) -> None:
    rows = list(measure_growth(4, after=[1, 3], steps=1, scratch=tmp_path))
    assert [(row["images"], row["after step"]) for row in rows] == [(4, 1), (4, 3)]
    assert all(row["step, ms"] > 0 for row in rows)
