"""Uploads as users make them, the ugly ones first. Each case states the expected result."""

from tests.preprocess.uploads.ugly_uploads.archives import ARCHIVES, NAMES
from tests.preprocess.uploads.ugly_uploads.captions import CAPTIONS, METADATA
from tests.preprocess.uploads.ugly_uploads.pictures import DECODING, DUPLICATES

CASES = [*DECODING, *DUPLICATES, *NAMES, *CAPTIONS, *METADATA, *ARCHIVES]
