"""`scale_lr`: learning rates times the number of images of a step, as in diffusers' scripts (Goyal et al. 2017)."""

from dataclasses import replace

from trainer.trainables.kind import UpdateSettings


def scaled(settings: UpdateSettings, images: int) -> UpdateSettings:
    """Multiply every learning rate. `images`: per optimizer step, in all processes."""
    optimization = settings.optimization
    return replace(
        settings,
        optimization=optimization.model_copy(
            update={
                "learning_rate": images * optimization.resolved_learning_rate,
                "token_learning_rate": images * optimization.resolved_token_learning_rate,
            }
        ),
        text_encoder_learning_rate=images * settings.text_encoder_learning_rate,
    )


def scaling_note(settings: UpdateSettings, images: int) -> str:
    """A message with the scaled rates. `settings`: after scaling."""
    own = settings.optimization
    return (
        f"scale_lr: learning rates are multiplied by {images}, the images per step: {own.resolved_learning_rate:g}, "
        f"for tokens {own.resolved_token_learning_rate:g}"
    )
