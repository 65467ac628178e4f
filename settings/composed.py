"""All sections of a training: flat, as users type them, and each as a record of its own, as the code takes them."""

from typing import TypeVar, cast

from settings.preparation import DataConfig
from settings.record import Settings
from settings.sections.adapter import TEXT_ENCODER_RATE, AdapterSection
from settings.sections.base_model import BaseModelSection
from settings.sections.class_images import ClassImagesSection
from settings.sections.collapse import CollapseSection
from settings.sections.duration import DurationSection
from settings.sections.held_out import HeldOutSection
from settings.sections.noise import NoiseSection
from settings.sections.objective import ObjectiveSection
from settings.sections.optimization import OptimizationSection, default_rate
from settings.sections.output import OutputSection
from settings.sections.publishing import PublishingSection
from settings.sections.speed import SpeedSection
from settings.sections.tokens import TokenSection
from settings.sections.validation import ValidationSection

Section = TypeVar("Section", bound=Settings)

OF_THE_FIRST_PASS = ("adapter_dropout", "token_attention_weight")
"""Settings that work inside a pass through the denoiser's blocks, which must be one that is run, once, as it is."""


class ComposedSections(
    PublishingSection,
    OutputSection,
    SpeedSection,
    ValidationSection,
    HeldOutSection,
    ObjectiveSection,
    CollapseSection,
    NoiseSection,
    OptimizationSection,
    TokenSection,
    AdapterSection,
    DurationSection,
    ClassImagesSection,
    BaseModelSection,
    DataConfig,
):
    """The fields of all sections, in the reverse order of the bases.

    `adapter` and `optimizer` are fields, so those two sections are `adapters` and `optimization`.
    """

    @property
    def base(self) -> BaseModelSection:
        return self._section(BaseModelSection)

    @property
    def preparation(self) -> DataConfig:
        return self._section(DataConfig)

    @property
    def class_images(self) -> ClassImagesSection:
        return self._section(ClassImagesSection)

    @property
    def duration(self) -> DurationSection:
        return self._section(DurationSection)

    @property
    def adapters(self) -> AdapterSection:
        return self._section(AdapterSection)

    @property
    def tokens(self) -> TokenSection:
        return self._section(TokenSection)

    @property
    def optimization(self) -> OptimizationSection:
        return self._section(OptimizationSection)

    @property
    def noise(self) -> NoiseSection:
        return self._section(NoiseSection)

    @property
    def collapse(self) -> CollapseSection:
        return self._section(CollapseSection)

    @property
    def objective(self) -> ObjectiveSection:
        return self._section(ObjectiveSection)

    @property
    def held_out(self) -> HeldOutSection:
        return self._section(HeldOutSection)

    @property
    def validation(self) -> ValidationSection:
        return self._section(ValidationSection)

    @property
    def speed(self) -> SpeedSection:
        return self._section(SpeedSection)

    @property
    def output(self) -> OutputSection:
        return self._section(OutputSection)

    @property
    def publishing(self) -> PublishingSection:
        return self._section(PublishingSection)

    @property
    def has_preservation_set(self) -> bool:
        """Given, or drawn by the base."""
        return self.preservation_data is not None or self.num_class_images > 0

    @property
    def resolved_mask_floor(self) -> float:
        """What lies around a face matters more than what lies around a thing: hair, neck, light."""
        if self.mask_floor is not None:
            return self.mask_floor
        return 0.3 if self.mask == "face" else 0.1

    @property
    def resolved_text_encoder_learning_rate(self) -> float:
        """Of the text encoders' adapter."""
        return default_rate(self.text_encoder_learning_rate, self.optimizer, TEXT_ENCODER_RATE)

    @property
    def needs_first_activations(self) -> bool:
        """Whether a second forward pass of a block would not do what the first one did."""
        return any(getattr(self, name) > 0 for name in OF_THE_FIRST_PASS)

    @property
    def warmup_steps(self) -> int:
        """Optimizer steps of warm-up, resolved."""
        if self.lr_warmup_steps is not None:
            return self.lr_warmup_steps
        return 100 if self.max_train_steps is None else min(100, self.max_train_steps // 10)

    def _section(self, record: type[Section]) -> Section:
        """The values as they are now, checked already; what the user set stays known as set."""
        values = {name: getattr(self, name) for name in record.model_fields}
        return cast(Section, record.model_construct(self.model_fields_set & set(values), **values))
