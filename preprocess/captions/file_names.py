"""Reads captions from file names, as EveryDream does. Names given by cameras and programs are not captions."""

import re
from pathlib import Path

from preprocess.uploads.text_files import one_line

WORDS_OF_A_CAPTION = 3
"""Smallest number of words of a caption in a file name."""
PROGRAMS = re.compile(
    r"(?:whats ?app|telegram|snapchat|instagram|facebook|fb ?img|messenger|viber|wechat|mmexport"
    r"|screen ?shot|screen ?recording|screen ?capture|bildschirmfoto|capture d.?écran|captura de|schermata"
    r"|schermafbeelding|zrzut ekranu|skärm(?:bild|avbild)|snímek obrazovky|снимок экрана"
    r"|スクリーンショット|屏幕截图|截屏"
    r"|vlcsnap|img|dscn?|dscf|pxl|mvimg|gopr|dji|cimg|hpim"
    r"|copy of|kopie (?:von|van)|copie de|copia de|cópia de|kopia|копия"
    r"|dall.?e|mid ?journey|chat ?gpt|gemini generated|stable ?diffusion|comfy ?ui|ideogram|sdxl|image creator"
    r"|adobe ?stock|adobe express|canva|pixabay|unsplash|pexels|shutterstock|istock|getty ?images"
    r"|untitled|unbenannt|sans titre|sin título|new (?:project|image|file|canvas|document)|neues (?:bild|projekt)"
    r"|(?:image|photo|picture) from (?:ios|iphone|android|\d))(?!\w)",
    re.IGNORECASE,
)
"""Beginnings of names that programs give, whatever follows."""
NUMBERED = re.compile(
    r"(?:image|photo|picture|pic|foto|bild|imagen|immagine|scan|frame|file|video|vid|render|page|seite|line|signal|sam"
    r"|flux|leonardo|gemini|grok|bing|firefly|download|snapshot|capture|copilot|flickr|pinterest|kodak|imag)\s*"
    r"(?:[-#(]?\s*\d|(?:on|from|at|vom|am|du|de|del)\s+\d)",
    re.IGNORECASE,
)
"""Words that may begin a caption. A name that starts with them is generated only where a number follows."""
NUMBERS = re.compile(
    r"\d{5,}"  # numbers of a camera, seeds, times
    r"|(?<!\d)\d{4}[-. ]\d{1,2}[-. ]\d{1,2}(?!\d)|(?<!\d)\d{1,2}[-. ]\d{1,2}[-. ]\d{2,4}(?!\d)"  # dates
    r"|(?<!\d)\d{1,2}[.:h-]\d{2}[.:m-]\d{2}(?!\d)"  # times
    r"|(?<![0-9a-z])[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?![0-9a-z])"  # uuids
    r"|(?<![0-9a-z])(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{8,}(?![0-9a-z])",  # digests
    re.IGNORECASE,
)
COPY = re.compile(
    r"(?:\s*\(\d+\)|\s+-\s+(?:copy|kopie|copie|copia|cópia)(?:\s*\(\d+\))?|\s*\((?:copy|kopie|edited|bearbeitet)\)"
    r"|\s+copy(?:\s+\d+)?)+$",
    re.IGNORECASE,
)
WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*[.,;:!?]*")


def file_name_caption(path: Path, wanted: bool | None) -> str | None:
    """Return the file's name up to its first underscore: "a man on a horse_(2).jpg".

    `wanted` None: only names of at least three words that no camera or program generates.
    """
    text = one_line(path.stem.split("_")[0])
    if wanted is False or not text:
        return None
    if wanted:
        return text
    text = COPY.sub("", text).strip()
    return text if _is_caption(text) else None


def _is_caption(text: str) -> bool:
    if PROGRAMS.match(text) or NUMBERED.match(text) or NUMBERS.search(text):
        return False
    return sum(WORD.fullmatch(word.strip('"“”()')) is not None for word in text.split()) >= WORDS_OF_A_CAPTION
