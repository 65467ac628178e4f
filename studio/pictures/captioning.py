"""Generates new captions for images of a prepared dataset: `python -m studio.pictures.captioning REQUEST`.

It runs in a separate process, whose end frees the memory of the captioner. Captioners get the image as it is trained.
"""

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from job.progress import Progress
from preprocess.captioners.captioner import BATCH_SIZE
from preprocess.captioners.wording import at_most_words, worded
from preprocess.captions.generated import MOST_WORDS
from preprocess.captions.labels import label, preservation_label
from preprocess.captions.pairing import Caption
from preprocess.dataset import Example, PreparedDataset
from preprocess.errors import DatasetError
from settings.preparation import DataConfig
from settings.record import ConfigError
from settings.training import build_config
from studio.other_process import SUCCESS, read_request, reason_in, refuse, running_task

RESULT = "captions: "


def captions_of(
    folder: Path, names: Sequence[str], settings: Mapping[str, Any], captioner: str
) -> Iterator[Progress | dict[str, str]]:
    """Caption the images with these names of the dataset in `folder`; yields progress, and finally the captions by
    name. `settings`: those of the preparation. Closing the iterator stops it.

    Raises DatasetError with the reason.
    """
    values = dict(settings) | {"captioner": captioner}
    with tempfile.TemporaryDirectory() as scratch:
        content = {"folder": str(folder), "names": list(names), "settings": values}
        others = []
        with running_task("studio.pictures.captioning", content, Path(scratch) / "request.json") as child:
            for line in child.lines():
                if (progress := Progress.from_line(line)) is not None:
                    yield progress
                elif line.startswith(RESULT):
                    yield dict(json.loads(line.removeprefix(RESULT)))
                    return
                else:
                    others.append(line)
    raise DatasetError(reason_in(others) or "the captioner ended without a result")


def caption_again(dataset: PreparedDataset, names: Sequence[str], config: DataConfig) -> Iterator[tuple[str, str]]:
    """Yield the name and the new caption of each image, with trigger word and affixes as in the preparation.

    Raises DatasetError, also if the captioner cannot be loaded.
    """
    from preprocess.captioners.cache import CaptionCache
    from preprocess.captioners.captioning import caption_batch, loaded_on_use
    from preprocess.captioners.kinds import load_captioner
    from preprocess.captioners.registry import choose_captioner
    from preprocess.captions.generated import cache_folder
    from preprocess.workers.devices import best_device

    choice = choose_captioner(
        config.captioner, prompt=config.captioner_prompt, trust_remote_code=config.trust_remote_code
    )
    wanted = [example for example in dataset.largest if example.source in set(names)]
    with loaded_on_use(lambda: load_captioner(choice, best_device())) as captioner:
        for start in range(0, len(wanted), BATCH_SIZE):
            batch = wanted[start : start + BATCH_SIZE]
            pictures = [_picture(dataset.folder / example.views[0].file) for example in batch]
            answers = caption_batch(pictures, choice, captioner, CaptionCache(cache_folder()))
            for example, text in zip(batch, answers, strict=True):
                yield example.source, _whole(example, text, config)


def _picture(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")


def _whole(example: Example, text: str, config: DataConfig) -> str:
    words = worded(text, at_most_words(MOST_WORDS))
    caption = Caption(words, config.captioner) if words else None
    if example.concept is None:
        return preservation_label(example.source, None, caption, 1, config).caption
    return label(example.source, None, caption, 1, config).caption


def main(argv: Sequence[str]) -> int:
    """Print the captions of a request. Returns the exit status: 0, or 2 for a wrong request."""
    request = read_request(argv)
    found: dict[str, str] = {}
    names = request["names"]
    try:
        config = build_config(request["settings"]).preparation
        dataset = PreparedDataset.read(Path(request["folder"]))
        for source, caption in caption_again(dataset, names, config):
            found[source] = caption
            share = len(found) / len(names)
            print(Progress(f"captioning {len(found)} of {len(names)}", share).to_json(), flush=True)
    except (ConfigError, DatasetError) as error:
        return refuse(error)
    print(f"{RESULT}{json.dumps(found)}", flush=True)
    return SUCCESS


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
