"""Default prompts of prior matching: common ones, and for the embedded base model prompts as in its training. None of
them is among the unrelated prompts of the evaluation, which measure how much is preserved.
"""

from families.loading.sources import EMBEDDED_BASE

EVERYDAY_PROMPTS = (
    "a photo of a dog running on grass",
    "a portrait of an old man with a beard",
    "a close-up of a woman's face, soft light",
    "a group of people at a long table",
    "a child with a red balloon in a park",
    "a cat asleep on a windowsill",
    "a white horse in front of a barn",
    "an elephant at a water hole",
    "a bird on a branch, blurred background",
    "a sports car on a coastal road",
    "a bicycle against a brick wall",
    "a wooden chair in an empty room",
    "a modern living room with large windows",
    "a cup of coffee and a croissant",
    "a skyscraper seen from below",
    "a village church in winter",
    "a beach with palm trees at sunset",
    "a forest path in autumn",
    "a waterfall between mossy rocks",
    "a desert under a clear blue sky",
    "an oil painting of ships at sea",
    "a watercolor of a vase of tulips",
    "a pencil drawing of a hand",
    "a poster with geometric shapes in bright colors",
)
EMBEDDED_SCENES = (
    "a drawing of a small red moon at the top and a small turquoise square at the bottom on a purple background",
    "a small striped green and beige flower at the top on a blue background",
    "a photo of a dark green square at the top under the stars",
    "a picture of a large red circle with arms and ears on a dark red background",
    "a picture of an outlined brown diamond with legs and ears and wings under the stars",
    "a drawing of an orange arrow on the left on a green background",
    "a picture of a large outlined dotted black and dark green cross in the center at the beach",
    "a drawing of a large outlined dark red diamond with eyes and arms in the center on an orange background",
    "a large striped red and orange star on the left in a meadow",
    "a picture of a large outlined striped brown and white diamond with arms on the right in a meadow",
    "a photo of a small light green heart at the top and a small outlined pink ring at the bottom in the forest",
    "a small dark blue diamond at the top and a small outlined pink square at the bottom on a green background",
    "a drawing of a small light blue diamond at the top and a small beige drop at the bottom on a light green "
    "background",
    "a photo of a small brown star with arms at the bottom in the forest",
    "a large green diamond with arms on the right in a room",
    "a drawing of a red square with a mouth and wings at the bottom on a dotted white and yellow background",
    "a picture of a small light green thing on the left and a small white drop on the right on a purple background",
    "a drawing of a small outlined orange diamond in the center at the beach",
    "a photo of a large yellow figure with eyes and a hat on the left on an orange background",
    "a photo of a turquoise square with legs and wings on the left",
    "a drawing of a small red diamond with eyes and a mouth and wings on the left and a small striped brown and black "
    "ring on the right on a green background",
    "a drawing of a large outlined striped black and light purple drop with eyes and legs and wings on the right in a "
    "room",
    "a photo of a small outlined striped turquoise and green ring at the top on a light blue background",
    "a drawing of a large light blue circle on the right on a light green background",
)
"""Captions of training scenes of `tools.mini_base.scenes`."""


def kept_prompts(base_model: str) -> tuple[str, ...]:
    """The default prompts to keep for this base."""
    return EMBEDDED_SCENES if base_model == EMBEDDED_BASE else EVERYDAY_PROMPTS
