"""The placeholder tokens as a trainable."""

from functools import partial

from torch import Tensor, nn

from artifact.layers import Layer
from trainer.optimizers.settings import OptimizerSettings
from trainer.tokens.concept_tokens import ConceptTokens, add_tokens, plain_words
from trainer.tokens.from_images import image_tower, start_from_images
from trainer.tokens.initialization import token_starts, word_starts
from trainer.tokens.retraction import retract, usual_norms
from trainer.trainables.kind import Placement, TrainableKind, Updates, UpdateSettings
from trainer.trainables.part import Part, Parts


class TokenPart:
    """The rows of the placeholder tokens. They change no weights of the base, so `set_enabled` has no effect."""

    def __init__(self, tokens: ConceptTokens) -> None:
        self.tokens = tokens

    @property
    def parameters(self) -> list[nn.Parameter]:
        return self.tokens.parameters

    @property
    def undecayed(self) -> list[nn.Parameter]:
        return []

    def layers(self) -> dict[str, Layer]:
        return {}

    def rows(self) -> dict[str, Tensor]:
        rows = self.tokens.rows()
        return dict(zip(self.tokens.family.encoder_names, rows, strict=True)) if rows else {}

    def set_enabled(self, enabled: bool) -> None:
        """Does nothing."""

    def remove(self) -> None:
        self.tokens.remove()


def _place(placement: Placement) -> TokenPart:
    """Add the tokens. They are needed untrained as well, since captions contain the trigger words."""
    family, settings, generators = placement.family, placement.tokens, placement.generators
    concepts = [concept for concept in placement.concepts if concept.trigger_word]
    words = word_starts(settings.train_tokens, family)
    if not words and (settings.num_tokens == 0 or not concepts):
        return TokenPart(plain_words(family, [concept.trigger_word for concept in concepts]))
    starts = token_starts(settings, concepts, family)
    counts = dict.fromkeys(starts, settings.num_tokens) | dict.fromkeys(words, 1)
    tokens = add_tokens(family, starts | words, counts, generators["init_tokens"])
    if settings.token_init == "images":
        tower = image_tower(placement.base_model)
        start_from_images(tokens, family, placement.dataset, tower, generators["init_images"])
    return TokenPart(tokens)


def _updates(part: Part, settings: UpdateSettings) -> Updates | None:
    """Return None with a learning rate of 0."""
    assert isinstance(part, TokenPart)
    own = settings.optimization
    optimizer = OptimizerSettings(
        own.token_optimizer, own.resolved_token_learning_rate, own.token_weight_decay, own.prodigy_d_coef
    )
    if optimizer.learning_rate == 0:
        return None
    prepare = None
    if settings.token_retraction > 0:
        usual = usual_norms(part.tokens.placeholders.vocabularies)
        prepare = partial(retract, rows=part.parameters, usual=usual, power=settings.token_retraction)
    clip = own.token_max_grad_norm or own.max_grad_norm
    return Updates(optimizer, clip, last=settings.phases.tokens_until, prepare=prepare)


TOKENS = TrainableKind("tokens", _place, _updates)


def tokens_of(parts: Parts) -> ConceptTokens:
    """The placeholder tokens, possibly none."""
    part = parts["tokens"]
    assert isinstance(part, TokenPart)
    return part.tokens
