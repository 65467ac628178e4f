"""Checks which sources can be encoded to shards of features, and whether features fit a training."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from families.family import ModelFamily, restoring
from families.loading.fingerprint import fingerprint
from preprocess.errors import DatasetError
from preprocess.reopen import ALSO_IN_TRAINING
from preprocess.sources.references import is_store
from preprocess.sources.stores import expanded
from preprocess.uploads.archive import is_tar_name
from settings.preparation import DataConfig
from settings.record import ConfigError
from trainer.data.feature_shards import FeatureDataset, FeaturePlan, read_features
from trainer.data.latent_cache import keeps_pictures

REFUSED = ("concepts", "preservation_data", "max_extra_crop", "max_train_samples")
"""Settings that depend on all images together."""
NOT_OF_THE_DATA = {"num_workers", "sources"}


def plan_features(sources: Sequence[str], config: DataConfig, family: ModelFamily) -> FeaturePlan:
    """One shard for each file of the sources. Raises ConfigError for settings that depend on all images together."""
    if restoring(family) is not None:
        raise ConfigError(
            f"base models of the family {family.name} are trained on pixels, not on latents; train on the images "
            "directly"
        )
    if family.vae is None:
        raise ConfigError(
            f"base models of the family {family.name} have no VAE, so there are no features; train on the images"
        )
    for name in REFUSED:
        if name in config.model_fields_set and getattr(config, name, None) not in (None, (), 0):
            raise ConfigError(f"{name}: needs all images together, but shards are encoded one by one; leave it out")
    if config.control != "none":
        raise ConfigError(
            f"control: {config.control}: features contain no conditioning images; train the ControlNet on the images "
            "directly"
        )
    if config.source_weights:
        raise ConfigError("sources: weights are not supported for shards of features; leave weight out")
    shards = [shard for source in sources for shard in _shards(source, config.max_archive_files)]
    settings = config.model_dump(mode="json", exclude=NOT_OF_THE_DATA)
    return FeaturePlan(fingerprint(family.vae), settings, tuple(shards))


def settings_of_a_shard(config: DataConfig) -> DataConfig:
    """Every image gets its best size, independent of the other images of its shard."""
    return config.model_copy(update={"max_extra_crop": 0.0, "sources": (), "dataset_name": None})


def features_for(folder: Path, family: ModelFamily, config: DataConfig) -> FeatureDataset:
    """The features in `folder`. Raises DatasetError if they were made with another VAE or trigger word, and for the
    training of a ControlNet."""
    dataset = read_features(folder)
    if keeps_pictures(family):
        raise DatasetError(
            f"{folder.name}: contains features, but base models of the family {family.name} are trained on the images"
        )
    if dataset.plan.vae != fingerprint(family.vae):
        raise DatasetError(
            f"{folder.name}: was encoded with another VAE than that of this base model. Encode the images with this "
            "base_model"
        )
    if config.control != "none":
        raise DatasetError(
            f"{folder.name}: contains features without conditioning images (control: {config.control}); train the "
            "ControlNet on the images"
        )
    triggers = {concept.trigger_word for concept in config.all_concepts}
    others = {example.concept for example in dataset.examples if example.concept is not None} - triggers
    if others:
        words = ", ".join(word or '""' for word in sorted(others))
        raise DatasetError(f"{folder.name}: was encoded for the trigger word {words}; set trigger_word to it")
    late = config.model_fields_set & set(DataConfig.model_fields) - ALSO_IN_TRAINING
    if "mask" in config.model_fields_set and config.mask != dataset.plan.settings.get("mask", config.mask):
        late |= {"mask"}
    lines = [
        f"{name} has no effect: {folder.name} is already encoded. Encode the images again to change it"
        for name in sorted(late)
    ]
    return replace(dataset, warnings=(*dataset.warnings, *lines))


def _shards(source: str, most: int) -> list[str]:
    """The tars in a folder, the files that match a pattern, or the source itself."""
    if is_store(source):
        return expanded(source, most)
    folder = Path(source)
    if not folder.is_dir():
        return [source]
    tars = sorted(str(path) for path in folder.iterdir() if is_tar_name(path.name))
    return tars or [source]
