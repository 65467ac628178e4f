"""Tests of the names of datasets: which are understood, and which are refused before anything is opened."""

from pathlib import Path

import pytest

from preprocess.errors import DatasetError
from preprocess.sources.references import HubReference, is_table
from preprocess.sources.stores import expanded
from preprocess.uploads.archive import ArchiveLimits
from preprocess.uploads.given_data import require_present
from preprocess.uploads.intake import take_in
from settings.preparation import DataConfig
from settings.public import public_settings
from settings.record import ConfigError, build_settings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://owner/name", HubReference("owner/name")),
        ("hf://datasets/owner/name", HubReference("owner/name")),
        ("hf://owner/name@v1.0/small:test", HubReference("owner/name", "v1.0", "small", "test")),
        ("hf://owner/name@refs/convert/parquet/small", HubReference("owner/name", "refs/convert/parquet", "small")),
        ("hf://owner/name@refs/pr/3:test", HubReference("owner/name", "refs/pr/3", None, "test")),
        ("hf://owner/name:train[5:20]", HubReference("owner/name", None, None, "train", 5, 20)),
        ("hf://owner/name:train[:20]", HubReference("owner/name", None, None, "train", 0, 20)),
    ],
)
def test_parts_of_a_name(text: str, expected: HubReference) -> None:
    assert HubReference.parse(text) == expected
    assert HubReference.parse(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    ["hf://name", "hf://a/b/../c", "hf://a/b:train[x]", "hf://a/b:train[:10%]", "hf:///etc/passwd", "hf://a/b?x"],
)
def test_what_is_no_name_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(DatasetError, match="is not a dataset of the hub. Write hf://owner/name"):
        require_present([text])


def test_dataset_name_and_its_parts_are_one_source() -> None:
    config = build_settings(
        DataConfig,
        {
            "dataset_name": "a/b",
            "dataset_revision": "v1",
            "dataset_config_name": "c",
            "dataset_split": "test[:5]",
            "sources": ["x.zip", {"source": "y.zip", "weight": 3}],
        },
    )
    assert config.named_sources == ("x.zip", "y.zip", "hf://a/b@v1/c:test[:5]")
    assert config.source_weights == {"y.zip": 3.0}


@pytest.mark.parametrize("name", ["dataset_split", "dataset_config_name", "dataset_revision"])
def test_a_part_without_a_dataset_has_no_effect(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} has no effect without dataset_name"):
        build_settings(DataConfig, {name: "x"})


def test_a_folder_of_images_with_a_parquet_table_is_no_table(tmp_path: Path) -> None:
    for name in ("a.parquet", "a.png"):
        (tmp_path / name).write_bytes(b"x")
    assert not is_table(tmp_path)
    (tmp_path / "a.png").unlink()
    assert is_table(tmp_path)
    (tmp_path / "a.parquet").rename(tmp_path / "metadata.parquet")
    assert not is_table(tmp_path)


def test_what_is_public_of_a_source_has_no_path_and_no_secret() -> None:
    given = [
        "/home/me/photos.zip",
        "https://me:key@example.org/a.zip?token=x",
        "hf://a/b@v1:train[:5]",
        "s3://b/{0..3}.tar",
    ]
    shown = public_settings(build_settings(DataConfig, {"sources": given}))["sources"]
    assert [each["source"] for each in shown] == [
        "photos.zip", "https://example.org/a.zip", "hf://a/b@v1:train[:5]", "s3://b/{0..3}.tar",
    ]  # fmt: skip


def test_an_https_url_is_never_opened_by_the_library_of_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preprocess.sources.stores._store", lambda address: pytest.fail(address))
    assert expanded("https://10.0.0.1/{a,b}*.tar?x=1", 10) == [f"https://10.0.0.1/{name}*.tar?x=1" for name in "ab"]
    for source in ("https://10.0.0.1/{a,b}*.tar?x=1", r"https://10.0.0.1/\{a\}.tar"):
        with pytest.raises(DatasetError, match="not an address of the public internet"):
            take_in([source], tmp_path / str(len(source)), ArchiveLimits())
