"""Scenes of the embedded base with captions: things and creatures of all colours, on backgrounds and in places. A scene
consists of words; when it is drawn, colours are chosen at random among those that a word names.
"""

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image

from tools.mini_base.drawing.backgrounds import SCENERY, TONES
from tools.mini_base.drawing.colours import COLOURS, DISTINCT, Colour, colour_named, distance
from tools.mini_base.drawing.fills import Fill, plain, random_fill
from tools.mini_base.drawing.outlines import SHAPES, Place, Sheet, Stroke
from tools.mini_base.drawing.parts import BEFORE, BEHIND, PARTS

SIDE = 64
PATTERNS = ("plain", "striped", "dotted", "checkered")
GROUND_PATTERNS = ("plain", "striped", "dotted", "checkered", "shaded")
SIZES = {"small": 0.17, "medium": 0.24, "large": 0.32}
"""Radius as a share of the image's side."""
PLACES = {
    "in the center": (0.5, 0.5),
    "on the left": (0.3, 0.5),
    "on the right": (0.7, 0.5),
    "at the top": (0.5, 0.3),
    "at the bottom": (0.5, 0.7),
}
HOLLOW = ("ring", "moon", "arrow")
"""Shapes without room for a face."""
GENERIC_NOUNS = ("figure", "object", "shape", "thing")
CREATURE_NOUNS = ("figure", "creature", "monster", "character")
PREFIXES = ("", "a photo of ", "a picture of ", "a drawing of ")
HELD_OUT_SHARE = 16
MOST_SHRUNK = 0.8
"""Factor of a thing's radius if it has protruding parts."""
TWO_THINGS, WITH_PARTS, OUTLINED, PATTERNED = 0.15, 0.3, 0.25, 0.35
SOMEWHERE, GROUND_PATTERNED = 0.25, 0.15


@dataclass(frozen=True)
class Thing:
    """One thing. `second`: the word of its pattern's second colour, "" if it is plain; `parts`: of PARTS."""

    shape: str
    colour: str
    pattern: str = "plain"
    second: str = ""
    size: str = "medium"
    place: str = "in the center"
    parts: tuple[str, ...] = ()
    outlined: bool = False


@dataclass(frozen=True)
class Scene:
    """One or two things on a background: the word of a colour, or a place of SCENERY."""

    things: tuple[Thing, ...]
    background: str
    pattern: str = "plain"
    second: str = ""


BACKGROUNDS = (*COLOURS, *SCENERY)
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "background": BACKGROUNDS,
    "colour": tuple(COLOURS),
    "shape": tuple(SHAPES),
    "place": tuple(PLACES),
}


def draw(scene: Scene, rng: random.Random, side: int = SIDE) -> Image.Image:
    """The image of a scene, `side` × `side` pixels, with random colours, sizes and positions."""
    grounds = [COLOURS[word] for word in TONES.get(scene.background, ())]
    if scene.background in SCENERY:
        sheet = SCENERY[scene.background](side, rng)
    else:
        grounds.append(colour_named(scene.background, rng))
        if scene.second:
            grounds.append(_apart(scene.second, grounds, rng))
        sheet = Sheet(side, _fill(scene.pattern, grounds, rng))
    for thing in scene.things:
        _put(sheet, thing, grounds, rng)
    return sheet.finished()


def _put(sheet: Sheet, thing: Thing, grounds: Sequence[Colour], rng: random.Random) -> None:
    colours = [_apart(thing.colour, grounds, rng)]
    if thing.second:
        colours.append(_apart(thing.second, colours, rng))
    x, y = (centre + rng.uniform(-0.03, 0.03) for centre in PLACES[thing.place])
    shrunk = MOST_SHRUNK if set(thing.parts) - {"eyes", "a mouth"} else 1.0
    place = Place(x, y, SIZES[thing.size] * shrunk * rng.uniform(0.93, 1.07), rng.uniform(-0.08, 0.08))
    limbs = _limb_colour(colours[0], grounds)
    for name, part in BEHIND.items():
        if name in thing.parts:
            part(sheet, place, limbs)
    dark = distance(colours[0], (20, 20, 24)) < DISTINCT
    line = Stroke((245, 245, 245) if dark else (20, 20, 24), 0.028) if thing.outlined else None
    sheet.put(SHAPES[thing.shape], place, _fill(thing.pattern, colours, rng), line)
    for name, part in BEFORE.items():
        if name in thing.parts:
            part(sheet, place, limbs)


def _limb_colour(body: Colour, grounds: Sequence[Colour]) -> Colour:
    """A darker tone of the body, or a lighter one if the dark one is not distinguishable from background or body."""
    darker, lighter = (_toward(body, 0, 0.4), _toward(body, 255, 0.45))
    return darker if all(distance(darker, other) > DISTINCT / 2 for other in (body, *grounds)) else lighter


def _toward(colour: Colour, value: int, share: float) -> Colour:
    red, green, blue = (round(part + (value - part) * share) for part in colour)
    return red, green, blue


def _fill(pattern: str, colours: Sequence[Colour], rng: random.Random) -> Fill:
    return plain(colours[0]) if pattern == "plain" else random_fill(pattern, colours[0], colours[1], rng)


def _apart(word: str, others: Sequence[Colour], rng: random.Random, tries: int = 60) -> Colour:
    """A colour named by the word that is distinguishable from `others`; the most distant one if there is none."""
    found = [colour_named(word, rng)]
    while min((distance(found[-1], other) for other in others), default=DISTINCT) < DISTINCT and len(found) < tries:
        found.append(colour_named(word, rng))
    return found[-1] if len(found) < tries else max(found, key=lambda one: min(distance(one, two) for two in others))


def caption(scene: Scene, rng: random.Random) -> str:
    """A caption of the scene: sometimes without the background, or with a generic noun for the shape."""
    phrases = []
    for thing in scene.things:
        nouns = CREATURE_NOUNS if thing.parts else GENERIC_NOUNS
        noun = rng.choice(nouns) if rng.random() < 0.1 else thing.shape
        place = f" {thing.place}" if thing.place != "in the center" or rng.random() < 0.3 else ""
        phrases.append(f"{describe(replace(thing, shape=noun))}{place}")
    background = f" {background_phrase(scene)}" if rng.random() < 0.9 else ""
    return rng.choice(PREFIXES) + " and ".join(phrases) + background


def full_caption(scene: Scene) -> str:
    """A caption that names every attribute once."""
    phrases = " and ".join(f"{describe(thing)} {thing.place}" for thing in scene.things)
    return f"a photo of {phrases} {background_phrase(scene)}"


def background_phrase(scene: Scene) -> str:
    """ "on a striped red and white background", or "at the beach"."""
    if scene.background in SCENERY:
        return scene.background
    return f"on {article(_in_words(scene.pattern, scene.background, scene.second))} background"


def describe(thing: Thing) -> str:
    """ "a large striped red and blue star with eyes and legs": size, pattern and line only if they differ from the
    usual ones."""
    words = [thing.size] if thing.size != "medium" else []
    words += ["outlined"] if thing.outlined else []
    words += [_in_words(thing.pattern, thing.colour, thing.second), thing.shape]
    parts = f" with {' and '.join(thing.parts)}" if thing.parts else ""
    return article(" ".join(words)) + parts


def _in_words(pattern: str, colour: str, second: str) -> str:
    return colour if pattern == "plain" else f"{pattern} {colour} and {second}"


def article(text: str) -> str:
    """The text after its indefinite article."""
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def held_out(scene: Scene) -> bool:
    """Whether this combination of shape, colour, place and background is excluded from all training."""
    thing = scene.things[0]
    key = f"{thing.shape}/{thing.colour}/{thing.place}/{scene.background}"
    return zlib.crc32(key.encode()) % HELD_OUT_SHARE == 0


def sample_scene(rng: random.Random, *, two_things: float = TWO_THINGS) -> Scene:
    """A random scene, held-out combinations included."""
    background, pattern, second = _sample_background(rng)
    taken = {background, second, *TONES.get(background, ())}
    if rng.random() < two_things:
        places = rng.choice((("on the left", "on the right"), ("at the top", "at the bottom")))
        things = tuple(_sample_thing(rng, taken, place, ("small",), 0.5) for place in places)
    else:
        things = (_sample_thing(rng, taken, rng.choice(tuple(PLACES)), tuple(SIZES), 1.0),)
    return Scene(things, background, pattern, second)


def _sample_background(rng: random.Random) -> tuple[str, str, str]:
    if rng.random() < SOMEWHERE:
        return rng.choice(tuple(SCENERY)), "plain", ""
    colour = rng.choice(tuple(COLOURS))
    if rng.random() >= GROUND_PATTERNED:
        return colour, "plain", ""
    return colour, rng.choice(GROUND_PATTERNS[1:]), _other_colour(rng, {colour})


def _sample_thing(rng: random.Random, taken: set[str], place: str, sizes: tuple[str, ...], adorned: float) -> Thing:
    """`adorned`: factor of the usual share of patterns, lines and parts."""
    shape, colour = rng.choice(tuple(SHAPES)), _other_colour(rng, taken)
    pattern, second = "plain", ""
    parts: tuple[str, ...] = ()
    if rng.random() < PATTERNED * adorned:
        pattern, second = rng.choice(PATTERNS[1:]), _other_colour(rng, {colour})
    if shape not in HOLLOW and rng.random() < WITH_PARTS * adorned:
        chosen = set(rng.sample(PARTS, rng.choice((1, 2, 2, 3))))
        parts = tuple(part for part in PARTS if part in chosen)
    return Thing(shape, colour, pattern, second, rng.choice(sizes), place, parts, rng.random() < OUTLINED * adorned)


def _other_colour(rng: random.Random, taken: set[str]) -> str:
    """The word of a colour that is distinguishable from those already used, by typical colours."""
    return rng.choice([name for name in COLOURS if is_distinct(name, taken)])


def is_distinct(colour: str, others: set[str]) -> bool:
    """Whether the word's typical colour differs clearly from those of `others`; places and "" are ignored."""
    return all(distance(COLOURS[colour], COLOURS[other]) >= DISTINCT for other in others if other in COLOURS)


def training_scene(rng: random.Random) -> Scene:
    """A random scene that is not held out."""
    while held_out(scene := sample_scene(rng)):
        pass
    return scene


def simplified(scene: Scene) -> Scene:
    """The scene with only its first thing: plain, not small, without parts and line, on a plain background."""
    thing = scene.things[0]
    size = "medium" if thing.size == "small" else thing.size
    return Scene((Thing(thing.shape, thing.colour, size=size, place=thing.place),), scene.background)


def evaluation_scene(rng: random.Random) -> Scene:
    """A random held-out scene with one thing."""
    while not held_out(scene := sample_scene(rng, two_things=0.0)):
        pass
    return scene


def unrelated_prompts(count: int) -> list[str]:
    """The first `count` captions of held-out scenes: a training of a concept should not change their images. The
    captions are fixed; they are not in any training data, and not among the prompts of prior matching."""
    rng = random.Random(0)
    return [full_caption(evaluation_scene(rng)) for _ in range(count)]


def variations(scene: Scene, attribute: str) -> list[Scene]:
    """The scene with every value of one attribute of its first thing (or the background), in the order of ATTRIBUTES.

    Combinations that cannot be drawn (a thing in the colour of its background) are included, since they are only used
    in captions. A varied background is plain.
    """
    if attribute == "background":
        varied = [Scene(scene.things, value) for value in ATTRIBUTES[attribute]]
        return [scene if one.background == scene.background else one for one in varied]
    first, *rest = scene.things
    changed = {
        "colour": lambda value: replace(first, colour=value),
        "shape": lambda value: replace(first, shape=value),
        "place": lambda value: replace(first, place=value),
    }[attribute]
    return [replace(scene, things=(changed(value), *rest)) for value in ATTRIBUTES[attribute]]


def value_of(scene: Scene, attribute: str) -> str:
    """The scene's value of an attribute."""
    return scene.background if attribute == "background" else str(getattr(scene.things[0], attribute))
