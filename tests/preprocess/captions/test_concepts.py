"""Tests of several concepts in one upload and of the preservation set: how images are assigned and balanced."""

import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.captions.concepts import balancing_repeats, find_concept
from preprocess.dataset import Example, PreparedDataset
from preprocess.errors import DatasetError
from preprocess.prepare import prepare
from settings.concepts import ConceptConfig
from settings.preparation import DataConfig
from settings.record import build_settings
from tests.preprocess.uploads.ugly_uploads.making import picture

MakeFiles = Callable[[Mapping[str, bytes]], Path]
OPTIONS = {"resolution": 64, "captioner": "none"}
ANNA, REX = {"trigger_word": "ANNA", "class_word": "woman"}, {"trigger_word": "REX", "class_word": "dog"}


def prepared(source: Path, output: Path, **options: object) -> PreparedDataset:
    return prepare([source], build_settings(DataConfig, OPTIONS | options), output)


def by_source(dataset: PreparedDataset) -> dict[str, Example]:
    return {example.source: example for example in dataset.examples}


def seen(dataset: PreparedDataset) -> Counter[str | None]:
    """Return how often images of each concept are trained in one epoch."""
    counter: Counter[str | None] = Counter()
    for example in dataset.examples:
        counter[example.concept] += example.repeats
    return counter


def portraits(folder: str, count: int, seed: int) -> dict[str, bytes]:
    return {f"{folder}{number}.png": picture(seed=seed + number) for number in range(count)}


@pytest.fixture
def prior(tmp_path: Path) -> Callable[[Mapping[str, bytes]], Path]:
    """Returns a function that writes the zip of a preservation set."""

    def make(files: Mapping[str, bytes]) -> Path:
        with zipfile.ZipFile(tmp_path / "prior.zip", "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return tmp_path / "prior.zip"

    return make


def test_folders_in_a_zip_are_concepts(make_zip: MakeFiles, tmp_path: Path) -> None:
    files = portraits("people/Anna/", 2, 0) | portraits("rex/", 2, 10) | {"rex/0.txt": b"a dog on grass"}
    concepts = [ANNA | {"folder": "anna"}, REX | {"folder": "rex"}]
    dataset = prepared(make_zip(files), tmp_path / "dataset", concepts=concepts)
    found = {name: (example.concept, example.caption) for name, example in by_source(dataset).items()}
    assert found == {
        "people/Anna/0.png": ("ANNA", "a photo of ANNA woman"),
        "people/Anna/1.png": ("ANNA", "a photo of ANNA woman"),
        "rex/0.png": ("REX", "a REX dog on grass"),
        "rex/1.png": ("REX", "a photo of REX dog"),
    }


def test_triggers_in_captions_are_concepts(make_zip: MakeFiles, tmp_path: Path) -> None:
    captions = {"0.txt": b"ANNA on a beach", "1.txt": b"a photo of REX", "2.txt": b"REX, a dog"}
    dataset = prepared(make_zip(portraits("", 3, 0) | captions), tmp_path / "dataset", concepts=[ANNA, REX])
    assert [example.concept for example in dataset.examples] == ["ANNA", "REX", "REX"]
    assert [example.caption for example in dataset.examples] == ["ANNA on a beach", "a photo of REX", "REX, a dog"]


def test_the_folder_says_more_than_the_caption(make_zip: MakeFiles, tmp_path: Path) -> None:
    files = portraits("rex/", 1, 0) | {"rex/0.txt": b"ANNA with her dog"} | portraits("", 1, 5) | {"0.txt": b"ANNA"}
    concepts = [ANNA, REX | {"folder": "rex"}]
    dataset = by_source(prepared(make_zip(files), tmp_path / "dataset", concepts=concepts))
    assert (dataset["rex/0.png"].concept, dataset["rex/0.png"].caption) == ("REX", "ANNA with her REX dog")
    assert dataset["0.png"].concept == "ANNA"


@pytest.mark.parametrize(
    ("name", "folders", "expected"),
    [
        ("people/anna/1.png", ("people", "people/anna"), "B"),
        ("people/ben/1.png", ("people", "people/anna"), "X"),
        ("upload.zip/anna/old/1.png", ("anna", "ben"), "X"),
        ("ANNA\\1.png", ("anna", "ben"), "X"),
        ("caf\u00e9/1.png", ("ben", "cafe\u0301"), "B"),
        ("10_ben/1.png", ("anna", "10_ben/"), "B"),
    ],
)
def test_the_innermost_folder_counts(name: str, folders: tuple[str, str], expected: str) -> None:
    concepts = [
        ConceptConfig(trigger_word=trigger, class_word=None, folder=folder, repeats=1)
        for trigger, folder in zip("XB", folders, strict=True)
    ]
    assert find_concept(name, "", concepts).trigger_word == expected


@pytest.mark.parametrize("name", ["annabel/1.png", "1.png", "ben-anna/1.png", "anna.png", "x/anna"])
def test_a_folder_of_a_similar_name_is_another(name: str) -> None:
    concepts = [ConceptConfig(trigger_word="ANN", class_word=None, folder="anna", repeats=1)]
    with pytest.raises(DatasetError, match="belongs to no concept; move it to one of anna"):
        find_concept(name, "", concepts)


@pytest.mark.parametrize("names", [("robot", "my-robot"), ("my-robot", "robot")])
def test_a_trigger_within_a_longer_one_is_not_meant(names: tuple[str, str]) -> None:
    concepts = [ConceptConfig(trigger_word=name, class_word=None, folder=None, repeats=1) for name in names]
    assert find_concept("1.png", "a photo of my-robot", concepts).trigger_word == "my-robot"
    assert find_concept("2.png", "a photo of robot", concepts).trigger_word == "robot"
    assert find_concept("3.png", "robot beside my-robot", concepts).trigger_word == names[0]


def test_concepts_are_brought_near_each_other(make_zip: MakeFiles, tmp_path: Path) -> None:
    files = portraits("anna/", 7, 0) | portraits("rex/", 2, 20) | portraits("ben/", 5, 40)
    concepts = [ANNA | {"folder": "anna"}, REX | {"folder": "rex"}, {"trigger_word": "BEN", "folder": "ben"}]
    dataset = prepared(make_zip(files), tmp_path / "dataset", concepts=concepts)
    assert seen(dataset) == {"ANNA": 7, "REX": 8, "BEN": 5}
    lines = [line for line in dataset.warnings if "to balance the concepts" in line]
    assert lines == ["REX: its images are repeated 4 times, to balance the concepts"]


def test_balance_counts_repeats_that_were_asked_for(make_zip: MakeFiles, tmp_path: Path) -> None:
    files = portraits("3_anna/", 2, 0) | portraits("rex/", 2, 20)
    concepts = [ANNA | {"folder": "3_anna", "repeats": 2}, REX | {"folder": "rex"}]
    raw = prepared(make_zip(files), tmp_path / "raw", concepts=concepts, balance_concepts=False)
    assert seen(raw) == {"ANNA": 12, "REX": 2}
    assert not any("to balance the concepts" in line for line in raw.warnings)
    balanced = prepared(make_zip(files), tmp_path / "balanced", concepts=concepts)
    assert seen(balanced) == {"ANNA": 12, "REX": 12}


def test_balance_and_weights_count_an_image_once_for_each_of_its_resolutions(tmp_path: Path) -> None:
    """An epoch contains large images at each of several resolutions, and small images at the lowest only."""
    for name, side in (("anna", 160), ("rex", 70)):
        (tmp_path / name).mkdir()
        for number in range(2):
            (tmp_path / name / f"{number}.png").write_bytes(picture((side, side), seed=side + number))
    sides = {"resolution": [64, 128]}
    concepts = [ANNA | {"folder": "anna"}, REX | {"folder": "rex"}]
    balanced = prepared(tmp_path, tmp_path / "balanced", concepts=concepts, **sides)
    assert seen(balanced) == {"ANNA": 4, "REX": 4}
    sources = [{"source": str(tmp_path / name), "weight": weight} for name, weight in (("anna", 1), ("rex", 3))]
    config = build_settings(DataConfig, OPTIONS | sides | {"sources": sources})
    dataset = prepare([], config, tmp_path / "weighted")
    counted = Counter(example.source.split("/")[0] for example in dataset.examples for _ in range(example.repeats))
    assert counted == {"anna": 4, "rex": 12}
    assert any(line.startswith("rex: 75.0% of the training images (repeats × 6)") for line in dataset.warnings)


def test_preservation_images_of_one_name_are_left_out_one_by_one(tmp_path: Path) -> None:
    """The folder of regularisation images and preservation_data both have a reg/x.png, and one is a concept image."""
    for name, seed in (("data/a.png", 1), ("data/reg/x.png", 2), ("prior/reg/x.png", 1), ("prior/y.png", 3)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture(seed=seed))
    dataset = prepared(tmp_path / "data", tmp_path / "out", preservation_data=str(tmp_path / "prior"))
    preserved = [example.source for example in dataset.examples if example.concept is None]
    assert preserved == ["reg/x.png", "y.png"]
    assert [item.source for item in dataset.rejected] == ["reg/x.png"]


Counts = dict[str | None, int]
triggers: st.SearchStrategy[str | None] = st.sampled_from(["A", "B", "C", "D"])
counts = st.dictionaries(triggers, st.integers(1, 400), min_size=1)


@given(counts)
def test_balance_is_right_within_rounding(images: Counts) -> None:
    factors = balancing_repeats(images)
    largest = max(images.values())
    for name, count in images.items():
        assert factors[name] >= 1
        assert abs(count * factors[name] - largest) <= count / 2


@given(counts, st.integers(1, 2000))
def test_the_preservation_set_is_seen_as_often_as_all_concepts_together(images: Counts, prior: int) -> None:
    factors = balancing_repeats({**images, None: prior})
    together = sum(count * factors[name] for name, count in images.items())
    preserved = prior * factors[None]
    assert factors[None] >= 1
    assert abs(preserved - together) <= min(prior, sum(images.values()) * max(balancing_repeats(images).values())) / 2
    shares = {factors[name] / factor for name, factor in balancing_repeats(images).items()}
    assert len(shares) == 1, "the concepts stay balanced among themselves"


@pytest.mark.parametrize(
    ("concept", "message"),
    [
        ({"trigger_word": "BEN", "folder": "bem"}, r"concept BEN: no images in the folder 'bem'\. Check the name\."),
        ({"trigger_word": "BEN"}, "concept BEN: no images with that word in their captions"),
    ],
)
def test_a_concept_without_images_is_an_error(
    concept: dict[str, str], message: str, make_zip: MakeFiles, tmp_path: Path
) -> None:
    source = make_zip(portraits("anna/", 2, 0))
    with pytest.raises(DatasetError, match=message):
        prepared(source, tmp_path / "dataset", concepts=[ANNA | {"folder": "anna"}, concept])


def test_an_image_of_no_concept_is_an_error_with_a_remedy(make_zip: MakeFiles, tmp_path: Path) -> None:
    source = make_zip(portraits("anna/", 1, 0) | portraits("rex/", 1, 10) | portraits("misc/", 1, 20))
    concepts = [ANNA | {"folder": "anna"}, REX | {"folder": "rex"}]
    with pytest.raises(DatasetError, match=r"misc/0\.png: belongs to no concept; move it to one of anna, rex"):
        prepared(source, tmp_path / "dataset", concepts=concepts)


def test_the_templates_of_all_concepts_are_named(make_zip: MakeFiles, tmp_path: Path) -> None:
    concepts = [ANNA | {"folder": "anna"}, REX | {"folder": "rex"}]
    source = make_zip(portraits("anna/", 2, 0) | portraits("rex/", 1, 10))
    lines = [
        line for line in prepared(source, tmp_path / "dataset", concepts=concepts).warnings if "no caption" in line
    ]
    assert lines == [
        "2 of 3 images have no caption and are trained as 'a photo of ANNA woman': anna/0.png, anna/1.png",
        "1 of 3 images have no caption and are trained as 'a photo of REX dog': rex/0.png",
    ]


def test_the_preservation_set(make_zip: MakeFiles, prior: MakeFiles, tmp_path: Path) -> None:
    source = make_zip(portraits("", 2, 0) | {"0.txt": b"a dog", "1.txt": b"TOK asleep"})
    others = prior(portraits("", 3, 10) | {"0.txt": b"a dog on grass", "1.txt": b"a cat in Tokyo"})
    options = {"class_word": "dog", "preservation_data": str(others), "preservation_weight": 0.25}
    dataset = prepared(source, tmp_path / "dataset", **options)
    taught, kept = dataset.examples[:2], dataset.examples[2:]
    assert [(example.concept, example.weight) for example in taught] == [("TOK", 1.0)] * 2
    assert [(example.concept, example.weight) for example in kept] == [(None, 0.25)] * 3
    assert [example.caption for example in taught] == ["a TOK dog", "TOK asleep"]
    assert [example.caption for example in kept] == ["a dog on grass", "a cat in Tokyo", "a photo of dog"]
    pictures = [example.views[0].file for example in dataset.examples] + [str(e.preview) for e in dataset.examples]
    assert len(set(pictures)) == 10 and all((dataset.folder / name).is_file() for name in pictures)


def test_a_preservation_image_without_a_caption_is_named(make_zip: MakeFiles, prior: MakeFiles, tmp_path: Path) -> None:
    source = make_zip(portraits("", 1, 0) | {"0.txt": b"a TOK"})
    dataset = prepared(source, tmp_path / "dataset", preservation_data=str(prior(portraits("", 1, 10))))
    assert [example.caption for example in dataset.examples] == ["a TOK", ""]
    assert any(
        "1 of 2 images have no caption and are trained with the empty caption" in line for line in dataset.warnings
    )


def test_the_preservation_set_is_balanced_against_all_concepts(
    make_zip: MakeFiles, prior: MakeFiles, tmp_path: Path
) -> None:
    source = make_zip(portraits("anna/", 4, 0) | portraits("rex/", 2, 20))
    concepts = [ANNA | {"folder": "anna"}, REX | {"folder": "rex"}]
    few = str(prior(portraits("", 2, 40)))
    dataset = prepared(source, tmp_path / "few", concepts=concepts, preservation_data=few)
    assert seen(dataset) == {"ANNA": 4, "REX": 4, None: 8}
    assert "preservation: its images are repeated 4 times, to balance the concepts" in dataset.warnings
    many = str(prior(portraits("", 16, 40)))
    dataset = prepared(source, tmp_path / "many", concepts=concepts, preservation_data=many)
    assert seen(dataset) == {"ANNA": 8, "REX": 8, None: 16}


def test_a_preservation_image_teaches_nothing_even_in_a_concept_s_folder(
    make_zip: MakeFiles, prior: MakeFiles, tmp_path: Path
) -> None:
    source = make_zip(portraits("rex/", 2, 0))
    others = prior(portraits("rex/", 1, 10) | {"rex/0.txt": b"REX the hound"})
    concepts = [REX | {"folder": "rex"}]
    dataset = prepared(source, tmp_path / "dataset", concepts=concepts, preservation_data=str(others))
    assert (dataset.examples[2].concept, dataset.examples[2].caption) == (None, "REX the hound")
    assert any(
        "contains the trigger word REX, so that the image is trained" in warning for warning in dataset.all_warnings
    )


def test_preservation_images_do_not_make_up_for_missing_ones(
    make_zip: MakeFiles, prior: MakeFiles, tmp_path: Path
) -> None:
    source, others = make_zip({"readme.md": b"nothing here"}), prior(portraits("", 2, 10))
    with pytest.raises(DatasetError, match="no usable image among 1 files"):
        prepared(source, tmp_path / "dataset", preservation_data=str(others))


def test_a_missing_preservation_set_is_an_error(make_zip: MakeFiles, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"gone\.zip: does not exist"):
        prepared(make_zip(portraits("", 1, 0)), tmp_path / "dataset", preservation_data=str(tmp_path / "gone.zip"))


def test_an_empty_preservation_set_is_an_error(make_zip: MakeFiles, prior: MakeFiles, tmp_path: Path) -> None:
    others = prior({"readme.md": b"the pictures are elsewhere"})
    with pytest.raises(DatasetError, match=r"prior\.zip: no usable image among 1 files"):
        prepared(make_zip(portraits("", 1, 0)), tmp_path / "dataset", preservation_data=str(others))
