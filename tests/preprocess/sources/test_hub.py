"""Tests of datasets of the hub, with a local server that answers as the hub does."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets
import pytest

from preprocess.errors import DatasetError
from tests.preprocess.sources.local_hub import DatasetHub, hub
from tests.preprocess.sources.test_tables import (
    PICTURES,
    TEXTS,
    captions,
    prepared,
    rows,
    with_triggers,
)
from tests.preprocess.uploads.ugly_uploads.making import shard

__all__ = ["hub", "rows"]
NAME = "owner/robots"


def as_parquet(rows: datasets.Dataset) -> bytes:
    buffer = io.BytesIO()
    rows.to_parquet(buffer)
    return buffer.getvalue()


def card(configs: Sequence[Mapping[str, object]]) -> bytes:
    """Return a dataset card. Its YAML is written as JSON, which is valid YAML."""
    return f"---\nconfigs: {json.dumps(configs)}\n---\n".encode()


def test_a_dataset_is_read_by_its_name_and_by_dataset_name(
    hub: DatasetHub, rows: datasets.Dataset, tmp_path: Path
) -> None:
    hub.add(NAME, {"data/train-00000-of-00001.parquet": as_parquet(rows)})
    by_source = prepared([f"hf://{NAME}"], tmp_path / "1", class_word="robot")
    assert list(captions(by_source).values()) == with_triggers(TEXTS)
    by_setting = prepared([], tmp_path / "2", class_word="robot", dataset_name=NAME, dataset_split="train[1:3]")
    assert list(captions(by_setting).values()) == with_triggers(TEXTS[1:3])


def test_images_beside_a_table_and_shards(hub: DatasetHub, tmp_path: Path) -> None:
    table = "\n".join(json.dumps({"file_name": f"{i}.png", "text": TEXTS[i]}) for i in range(3)).encode()
    hub.add("owner/folder", {"metadata.jsonl": table, **{f"{i}.png": PICTURES[i] for i in range(3)}})
    folder = prepared(["hf://owner/folder"], tmp_path / "1", class_word="robot")
    assert sorted(captions(folder).values()) == sorted(with_triggers(TEXTS[:3]))
    files = {
        f"{i:03d}.{kind}": data for i in range(3) for kind, data in (("png", PICTURES[i]), ("txt", TEXTS[i].encode()))
    }
    hub.add("owner/shards", {"train-0000.tar": shard(files)})
    shards = prepared(["hf://owner/shards"], tmp_path / "2", class_word="robot")
    assert list(captions(shards).values()) == with_triggers(TEXTS[:3])


def test_captions_in_the_json_of_shards_are_read(hub: DatasetHub, tmp_path: Path) -> None:
    files: dict[str, bytes] = {}
    for i in range(3):
        record = {"caption": TEXTS[i], "long": f"{TEXTS[i]} at noon", "score": i}
        files |= {f"{i:03d}.png": PICTURES[i], f"{i:03d}.json": json.dumps(record).encode()}
    hub.add("owner/shards", {"train-0000.tar": shard(files)})
    dataset = prepared(["hf://owner/shards"], tmp_path / "1", class_word="robot", filters="score > 0")
    assert list(captions(dataset).values()) == with_triggers(TEXTS[1:3])
    dataset = prepared(["hf://owner/shards"], tmp_path / "2", class_word="robot", caption_column="long")
    assert list(captions(dataset).values()) == with_triggers([f"{text} at noon" for text in TEXTS[:3]])
    with pytest.raises(DatasetError, match=r"has no column 'short' \(caption_column\).*json.*caption, long, score"):
        prepared(["hf://owner/shards"], tmp_path / "3", caption_column="short")


def test_a_text_beside_the_json_of_a_shard_is_the_caption(hub: DatasetHub, tmp_path: Path) -> None:
    record = json.dumps({"caption": "another caption"}).encode()
    hub.add("owner/shards", {"a.tar": shard({"0.png": PICTURES[0], "0.txt": TEXTS[0].encode(), "0.json": record})})
    dataset = prepared(["hf://owner/shards"], tmp_path / "1", class_word="robot")
    assert list(captions(dataset).values()) == with_triggers(TEXTS[:1])
    dataset = prepared(["hf://owner/shards"], tmp_path / "2", caption_column="caption")
    assert list(captions(dataset).values()) == ["TOK, another caption"]


def test_the_branch_that_the_hub_converts_to_parquet_is_read(
    hub: DatasetHub, rows: datasets.Dataset, tmp_path: Path
) -> None:
    hub.add(NAME, {"data/train-00000-of-00001.parquet": as_parquet(rows)})
    hub.answers |= {path.replace("/main", "/refs%2Fconvert%2Fparquet"): sent for path, sent in hub.answers.items()}
    dataset = prepared(
        [], tmp_path / "1", class_word="robot", dataset_name=NAME, dataset_revision="refs/convert/parquet"
    )
    assert list(captions(dataset).values()) == with_triggers(TEXTS)


@pytest.mark.slow
def test_splits_and_configurations_are_chosen_or_listed(
    hub: DatasetHub, rows: datasets.Dataset, tmp_path: Path
) -> None:
    split = {"split": "test", "path": "b.parquet"}
    configs = [
        {"config_name": "small", "data_files": [{"split": "fit", "path": "a.parquet"}, split]},
        {"config_name": "large", "data_files": [split]},
    ]
    files = {"a.parquet": as_parquet(rows.select([0])), "b.parquet": as_parquet(rows), "README.md": card(configs)}
    hub.add(NAME, files)
    assert len(prepared([f"hf://{NAME}/small:test"], tmp_path / "1").examples) == 4
    assert len(prepared([f"hf://{NAME}/large"], tmp_path / "2").examples) == 4
    expected = {
        "": "several configurations, and none is named default. It has: small, large",
        "/huge": "has no configuration 'huge'. It has: small, large",
        "/small": "several splits, and none is named train. It has: fit, test",
        "/small:train": "has no split 'train'. It has: fit, test",
    }
    for number, (rest, message) in enumerate(expected.items()):
        with pytest.raises(DatasetError, match=message):
            prepared([f"hf://{NAME}{rest}"], tmp_path / f"bad{number}")


def test_what_is_not_there_or_holds_no_images(hub: DatasetHub, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"^hf://owner/missing: cannot be read: [^\n]*$"):
        prepared(["hf://owner/missing"], tmp_path / "1")
    hub.add("owner/texts", {"train.jsonl": b'{"question": "why?"}\n'})
    with pytest.raises(DatasetError, match=r"hf://owner/texts: none of its columns .*\(question\)"):
        prepared(["hf://owner/texts"], tmp_path / "2")


@pytest.mark.parametrize("pattern", ["../../*.parquet", "{folder}/*.parquet", "{site}/a.parquet"])
def test_a_card_opens_no_file_outside_of_its_repository(
    pattern: str, hub: DatasetHub, rows: datasets.Dataset, tmp_path: Path
) -> None:
    rows.to_parquet(tmp_path / "secret.parquet")
    hub.serve("/a.parquet", as_parquet(rows))
    path = pattern.format(folder=tmp_path, site=hub.url)
    hub.add(NAME, {"a.parquet": as_parquet(rows), "README.md": card([{"config_name": "default", "data_files": path}])})
    with pytest.raises(DatasetError) as refused:
        prepared([f"hf://{NAME}"], tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.png")) and str(tmp_path) not in str(refused.value)


def test_a_row_opens_no_file_outside_of_its_repository(hub: DatasetHub, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(PICTURES[0])
    named = [{"bytes": None, "path": str(tmp_path / "secret.png")}, {"bytes": PICTURES[1], "path": None}]
    table = datasets.Dataset.from_dict({"image": named, "text": TEXTS[:2]})
    hub.add(NAME, {"train.parquet": as_parquet(table)})
    dataset = prepared([f"hf://{NAME}"], tmp_path / "out")
    assert len(dataset.examples) == 1
    assert "is outside the dataset's repository" in dataset.rejected[0].reason


def test_a_local_folder_of_the_name_is_not_taken_for_it(
    hub: DatasetHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / NAME).mkdir(parents=True)
    (tmp_path / NAME / "a.png").write_bytes(PICTURES[0])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match="the local folder owner/robots has the same name"):
        prepared([f"hf://{NAME}"], tmp_path / "out")


def test_an_outage_is_named_with_its_remedy(
    hub: DatasetHub, rows: datasets.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(NAME, {"train.parquet": as_parquet(rows)})
    hub.down = True
    with pytest.raises(DatasetError, match=rf"^hf://{NAME}[^\n]*$"):
        prepared([f"hf://{NAME}"], tmp_path / "1")
    monkeypatch.setenv("FETCH_ALLOWED_HOSTS", "example.org")
    with pytest.raises(DatasetError, match="not in the operator's list"):
        prepared([f"hf://{NAME}"], tmp_path / "2")
    monkeypatch.delenv("FETCH_ALLOWED_HOSTS")
    hub.server.shutdown()
    hub.server.server_close()
    with pytest.raises(DatasetError, match=r"the hub \(127.0.0.1\) cannot be reached.*Check the network"):
        prepared([f"hf://{NAME}"], tmp_path / "3")


def test_the_tokens_of_the_machine_are_not_used_for_callers(
    hub: DatasetHub, rows: datasets.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(NAME, {"data/train-00000-of-00001.parquet": as_parquet(rows)})
    monkeypatch.setenv("HF_TOKEN", "hf_operator")
    for use in ("0", "1"):
        hub.seen.clear()
        monkeypatch.setenv("FETCH_USE_TOKENS", use)
        prepared([f"hf://{NAME}"], tmp_path / use, class_word="robot")
        assert any("hf_operator" in str(headers) for _, headers in hub.seen) == (use == "1") and hub.seen
