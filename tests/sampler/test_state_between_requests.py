"""A request that fails or is cancelled leaves the base as the next request expects it."""

from pathlib import Path

import pytest

from artifact.command_line import main
from artifact.placement import placing
from artifact.placement.placing import PlacedArtifacts
from families.family import ModelFamily
from sampler.request import RequestError
from sampler.sampler import Sampler, SampleRequest
from tests.artifact.test_artifact import make_artifact, write


@pytest.mark.parametrize("error", [RequestError("unreadable"), KeyboardInterrupt()])
def test_the_scheduler_of_a_failed_request(
    base: ModelFamily, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr("sampler.sampler.encode_pair", failing)
    own = base.pipeline().scheduler
    request = SampleRequest("a", scheduler="heun", width=32, height=32, num_inference_steps=2)
    with pytest.raises(type(error)):
        Sampler(base).generate(request)
    assert base.pipeline().scheduler is own


def test_the_words_of_a_cancelled_lora(base: ModelFamily, monkeypatch: pytest.MonkeyPatch) -> None:
    def cancelled(*_: object) -> None:
        raise KeyboardInterrupt

    before = [len(tokenizer) for tokenizer in base.tokenizers]
    monkeypatch.setattr(placing, "_weight_changes", cancelled)
    with pytest.raises(KeyboardInterrupt):
        PlacedArtifacts(base, [make_artifact(base)])
    assert [len(tokenizer) for tokenizer in base.tokenizers] == before


def test_a_folder_that_cannot_be_written_is_one_line(
    base: ModelFamily, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(make_artifact(base), tmp_path / "one.safetensors", base)
    (tmp_path / "file").write_bytes(b"")
    target = tmp_path / "file" / "out.safetensors"
    assert main(["convert", str(source), str(target), "--format", "diffusers"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
