"""What people upload, ugly things first: each case says what comes of it."""

from tests.preprocess.uploads.ugly_uploads.archives import ARCHIVES, NAMES
from tests.preprocess.uploads.ugly_uploads.captions import CAPTIONS, METADATA
from tests.preprocess.uploads.ugly_uploads.pictures import DECODING, DUPLICATES

CASES = [*DECODING, *DUPLICATES, *NAMES, *CAPTIONS, *METADATA, *ARCHIVES]
