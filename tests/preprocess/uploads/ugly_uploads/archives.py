"""Cases of file names, archives and folders."""

import gzip
import json
import tarfile

from tests.preprocess.uploads.ugly_uploads.case import Case
from tests.preprocess.uploads.ugly_uploads.making import (
    A,
    B,
    encrypted,
    of_macos,
    picture,
    shard,
    tar_of,
    with_large_file_records,
    with_link,
    zipped,
)

DAMAGED = zipped({"a.png": A}).replace(A[40:60], bytes(20), 1)
NAMES = [
    Case("one name in two folders gives two images", {"x/1.png": A, "y/1.png": B}, 2, silent=True),
    Case("one stem with two suffixes gives two images", {"1.png": A, "1.jpg": picture(kind="JPEG", seed=5)}, 2),
    Case("umlauts, emoji, quotes and spaces", {"Bild für Öma 🎈 'x' \"y\".png": A}, 1),
    Case("a name of only signs", {"___.png": A}, 1, silent=True),
    Case("a very long name", {"n" * 200 + ".png": A}, 1, silent=True),
    Case("backslashes are folders", {"x\\1.png": A, "x\\1.txt": b"a TOK"}, 1, captions=("a TOK",), packed_as="zip"),
    Case(
        "files of operating systems are ignored",
        {"a.png": A, "__MACOSX/._a.png": b"x", ".DS_Store": b"x", "Thumbs.db": b"x"},
        1,
        silent=True,
    ),
]

ARCHIVES = [
    Case("a zip", {"a.png": A}, 1, packed_as="zip", silent=True),
    Case("a tar", {"a.png": A}, 1, packed_as="tar", silent=True),
    Case("a zip called .bin", {"a.png": A}, 1, packed_as="zip.bin", silent=True),
    Case(
        "a webdataset shard",
        {"0000.png": A, "0000.json": json.dumps({"caption": "a TOK"}).encode(), "0001.png": B, "0001.txt": b"b TOK"},
        2,
        captions=("a TOK", "b TOK"),
        packed_as="tar",
        silent=True,
    ),
    Case(
        "a folder of webdataset shards",
        {"x-000.tar": shard({"0.png": A, "0.txt": b"a TOK"}), "x-001.tar": shard({"0.png": B, "0.txt": b"b TOK"})},
        2,
        captions=("a TOK", "b TOK"),
        silent=True,
    ),
    Case("a compressed tar", {}, 1, packed_as="tgz", archive=gzip.compress(shard({"a.png": A})), silent=True),
    Case("a zip64", {}, 1, packed_as="zip", archive=with_large_file_records({"a.png": A}), silent=True),
    Case(
        "names that macOS put into a zip",
        {},
        1,
        packed_as="zip",
        archive=of_macos({"Bär 🐻.png": A, "captions.csv": "file,text\nBär 🐻.png,a TOK".encode()}),
        captions=("a TOK",),
        silent=True,
    ),
    Case("a zip with a password is an error", {}, 0, "encrypted", packed_as="zip", archive=encrypted({"a.png": A})),
    Case(
        "a zip with a link is an error",
        {},
        0,
        "a symbolic link",
        packed_as="zip",
        archive=with_link("b.png", "/etc/passwd"),
    ),
    Case(
        "a cut-off zip is an error",
        {},
        0,
        "neither a zip nor a tar",
        packed_as="zip",
        archive=zipped({"a.png": A})[:-60],
    ),
    Case("a zip with damaged contents is an error", {}, 0, "cannot be read", packed_as="zip", archive=DAMAGED),
    Case(
        "a cut-off tar.gz is an error",
        {},
        0,
        "cannot be read",
        packed_as="tgz",
        archive=gzip.compress(shard({"a.png": picture((128, 128), 3), "b.png": A}))[:-300],
    ),
    Case(
        "another kind of archive is an error",
        {},
        0,
        "neither a zip nor a tar",
        packed_as="rar",
        archive=b"Rar!\x1a\7\1\0",
    ),
    Case("a tar with absolute names is an error", {"/a.png": A}, 0, "absolute path or contains ..", packed_as="tar"),
    Case(
        "a tar with climbing names is an error",
        {"x/../../a.png": A},
        0,
        "absolute path or contains ..",
        packed_as="tar",
    ),
    Case(
        "backslashes do not climb either", {"x\\..\\..\\a.png": A}, 0, "absolute path or contains ..", packed_as="zip"
    ),
    Case(
        "a tar that ends between two files is an error",
        {},
        0,
        "the tar is truncated or damaged: its end mark is missing",
        packed_as="tar",
        archive=shard({"a.png": A})[: 512 + (len(A) + 511) // 512 * 512],
    ),
    Case(
        "a tar that ends within a file is an error",
        {},
        0,
        "cannot be read (unexpected end of data)",
        packed_as="tar",
        archive=shard({"a.png": A})[:700],
    ),
    Case("drive letters are an error", {"C:\\a.png": A}, 0, "absolute path or contains ..", packed_as="zip"),
    *(
        Case(
            f"a tar with {what} is an error",
            {},
            0,
            "a link or device",
            packed_as="tar",
            archive=tar_of(kind, "a.png", "b"),
        )
        for what, kind in [
            ("a symbolic link", tarfile.SYMTYPE),
            ("a hard link", tarfile.LNKTYPE),
            ("a device", tarfile.CHRTYPE),
            ("a pipe", tarfile.FIFOTYPE),
        ]
    ),
    Case(
        "a file too large is an error",
        {"a.png": A},
        0,
        "larger than the 100 bytes",
        packed_as="zip",
        options={"max_file_bytes": 100},
    ),
    Case(
        "files too large together are an error",
        {"a.png": A, "b.png": B},
        0,
        "b.png: is larger than the",
        packed_as="tar",
        options={"max_archive_bytes": len(A) + len(B) // 2},
    ),
    Case("a name longer than disks take is an error", {"n" * 300 + ".png": A}, 0, "cannot be read", packed_as="zip"),
    Case("folders upon folders", {"/".join("abcdefghij" * 5) + "/a.png": A}, 1, packed_as="zip", silent=True),
    Case(
        "a link to a file is the file, to a folder or nothing it is named",
        {"a.png": A},
        2,
        "round: is a link to a folder, a broken link",
        options={"duplicates": "keep"},
        links={"b.png": "a.png", "round": ".", "lost.png": "gone.png"},
    ),
    Case(
        "a shard with missing texts",
        {"0.png": A, "1.png": B, "1.txt": b"b TOK", "2.txt": b"lost"},
        2,
        "2.txt: is a caption without an image",
        captions=("a photo of TOK", "b TOK"),
        packed_as="tar",
    ),
    Case(
        "a webdataset's keys with folders and inner dots",
        {"x/0.1.png": A, "x/0.1.txt": b"a TOK", "x/0.2.png": B, "x/0.2.json": b'{"prompt": "b TOK"}'},
        2,
        captions=("a TOK", "b TOK"),
        packed_as="tar",
        silent=True,
    ),
    Case(
        "an archive in the archive is named",
        {"a.png": A, "more.zip": zipped({"b.png": B})},
        1,
        "more.zip: archives inside the data are not unpacked",
    ),
    Case("climbing names are an error", {"../a.png": A}, 0, "absolute path or contains ..", packed_as="zip"),
    Case("absolute names are an error", {"/a.png": A}, 0, "absolute path or contains ..", packed_as="zip"),
    Case("one name twice is an error", {"a.png": A, "A.PNG": B}, 0, "contains this name twice", packed_as="zip"),
    Case("an empty zip is an error", {}, 0, "the archive is empty", packed_as="zip"),
    Case(
        "too many files are an error",
        {f"{n}.png": A for n in range(5)},
        0,
        "more than 3 files",
        packed_as="zip",
        options={"max_archive_files": 3},
    ),
    Case(
        "a large file in a small archive is an error",
        {"a.bmp": bytes(60_000_000)},
        0,
        "an archive bomb",
        packed_as="deflated",
    ),
    Case("no images at all is an error", {"a.md": b"hello"}, 0, "no usable image among 1 files"),
]
