"""Tests of data that is given by name: trainings from end to end on the embedded base, with local servers."""

import io
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import datasets
import pytest

from tests.conftest import PROJECT
from tests.preprocess.sources.local_hub import DatasetHub
from tests.preprocess.sources.local_s3 import Store, s3
from tests.preprocess.sources.test_tables import PICTURES, TEXTS, dataset_of
from tests.preprocess.uploads.ugly_uploads.making import shard
from tests.warm_process import run_warm

__all__ = ["s3"]
FAST = ["--base_model", "mini-sdxl", "--max_train_steps", "20", "--resolution", "64", "--captioner", "none",
        "--rank", "2", "--num_validation_images", "0", "--class_word", "robot", "--evaluate", "false",
        "--quiet"]  # fmt: skip


def train(sources: list[str], output: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "train.py", *sources, *FAST, "--output", str(output)]
    return subprocess.run(command, cwd=PROJECT, env=os.environ | environment, capture_output=True, text=True)


@pytest.mark.slow
def test_a_hub_dataset_shards_of_s3_and_a_list_of_urls_are_trained_together(s3: Store, tmp_path: Path) -> None:
    hub = DatasetHub()
    buffer = io.BytesIO()
    dataset_of({"image": PICTURES[:2], "text": TEXTS[:2]}).to_parquet(buffer)
    hub.add("owner/robots", {"train.parquet": buffer.getvalue()})
    s3.put("open", {f"{i}.tar": shard({f"{i}.png": PICTURES[i], f"{i}.txt": TEXTS[i].encode()}) for i in (2, 3)})
    hub.serve("/a.png", PICTURES[0])
    datasets.Dataset.from_dict({"url": [f"{hub.url}/a.png"], "caption": ["a robot"]}).to_parquet(tmp_path / "u.parquet")
    environment = s3.environment() | {
        "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0",
        "FETCH_ALLOW_HTTP": "1", "FETCH_ALLOW_PRIVATE_ADDRESSES": "1",
    }  # fmt: skip
    sources = [{"source": "s3://open/{2..3}.tar", "weight": 3}, {"source": str(tmp_path / "u.parquet"), "weight": 1}]
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"sources": sources, "duplicates": "keep"}), encoding="utf-8")
    result = train(["hf://owner/robots:train", "--config", str(settings)], tmp_path / "out", environment)
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    examples = [json.loads(line) for line in (tmp_path / "out/dataset/dataset.jsonl").open(encoding="utf-8")]
    seen: Counter[str] = Counter()
    for example in examples:
        seen[example["source"].split("/")[0]] += example["repeats"]
    assert len(examples) == 5 and sorted(seen.values()) == [2, 2, 6]  # weights 1, 1 and 3
    assert (tmp_path / "out" / "weights.safetensors").is_file() and report["steps"] == 20
    assert len((tmp_path / "out" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()) == 20


@pytest.mark.slow
def test_what_cannot_be_opened_ends_in_one_line(s3: Store, tmp_path: Path) -> None:
    s3.denied.add("closed")
    words = ["train.py", "s3://closed/{0..3}.tar", *FAST, "--output", str(tmp_path / "out")]
    result = run_warm(words, PROJECT, environment=s3.environment())
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "s3://closed/0.tar: access is denied. Set credentials" in result.stderr
