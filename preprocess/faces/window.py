"""The crop window around a face with its shoulders, inside the image and never stretched."""

from preprocess.crops.crop import Size, Window, largest_window, window_inside
from preprocess.dataset import FaceBox

HEAD_AND_SHOULDERS = 3.0  # short side of the window in face sizes
SMALLEST_SHARE = 0.5  # of the image's short side: a small face keeps its surroundings
EYE_LINE = 0.4  # share of the height from the top, in a face box and in a portrait


def face_window(
    face: FaceBox,
    image_size: Size,
    aspect: float,
    minimum_size: tuple[float, float] = (0.0, 0.0),
    breadth: float = HEAD_AND_SHOULDERS,
) -> Window:
    """Return a window of `breadth` face sizes across its short side, with the eyes at 40 % of its height.

    `aspect` is width / height. The window is at least half the image's short side and at least `minimum_size` (the
    trained size divided by the largest allowed enlargement), as far as the image allows. It contains the whole face
    wherever a window of that aspect ratio can.
    """
    across, down = max(1.0, aspect), max(1.0, 1 / aspect)  # sides of a window whose short side is 1
    wanted = max(
        breadth * max(face.width, face.height),
        SMALLEST_SHARE * min(image_size),
        minimum_size[0] / across,
        minimum_size[1] / down,
    )
    largest = largest_window(image_size, aspect)
    short_side = min(wanted, largest.width, largest.height)
    width, height = across * short_side, down * short_side
    left = face.left + face.width / 2 - width / 2
    top = face.top + EYE_LINE * face.height - EYE_LINE * height
    return window_inside(image_size, width, height, (left, top))
