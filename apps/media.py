"""Open a file of sounds or films with PyAV (FFmpeg), known by its content.

FFmpeg also reads lists of files and addresses. So the container is chosen here, by the first bytes, from a list of
plain ones, and FFmpeg is given an open file instead of a path: nothing else is read, and nothing downloaded.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal

MAX_FRAME_PIXELS = 2**26
"""Of a frame of a film: 8192 x 8192."""
_WORDS = {"audio": "a sound", "video": "a film"}


class MediaError(ValueError):
    """A file of sounds or films cannot be read; the message names it, says what was found and the way out."""


@contextmanager
def plain_file(path: Path) -> Iterator[BufferedReader]:
    """A regular file, open for reading.

    Raises:
        MediaError: there is none, or it may not be read.
    """
    if "://" in str(path):
        raise MediaError(f"{path}: is an address, and nothing is downloaded here; download it and give the file")
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
            what = "is a folder" if stat.S_ISDIR(mode) else "is not a regular file"
            raise MediaError(f"{path}: {what}; give a file of a sound or a film")
        file = open(path, "rb")
    except FileNotFoundError:
        raise MediaError(f"{path}: there is no such file; check the path") from None
    except MediaError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise MediaError(f"{path}: cannot be opened: {getattr(error, 'strerror', None) or error}") from None
    with file:
        if not os.fstat(file.fileno()).st_size:
            raise MediaError(f"{path}: is empty (0 bytes); get the file again")
        yield file


def digest_of(file: BufferedReader) -> str:
    """SHA-256 of a file, which is left at its beginning."""
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0)
    return digest


def container_of(start: bytes) -> str | None:
    """FFmpeg's name of the container that begins with these (at least 16) bytes; None: not one of ours."""
    for beginning, name in {b"OggS": "ogg", b"fLaC": "flac", b"ID3": "mp3", b"\x1aE\xdf\xa3": "matroska",
                            b"FLV\1": "flv", b"GIF8": "gif", b"\0\0\1\xba": "mpeg"}.items():  # fmt: skip
        if start.startswith(beginning):
            return name
    form = start[:4], start[8:12]
    if form in ((b"RIFF", b"WAVE"), (b"RF64", b"WAVE")):
        return "wav"
    if form == (b"RIFF", b"AVI "):
        return "avi"
    if form[0] == b"FORM" and form[1] in (b"AIFF", b"AIFC"):
        return "aiff"
    if start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide"):
        return "mp4"
    if start[:1] == b"\xff" and len(start) > 1 and start[1] & 0xE6 == 0xE2:  # an MPEG audio frame of layer III
        return "mp3"
    return None


@contextmanager
def opened(path: Path, file: BufferedReader, kind: Literal["audio", "video"]) -> Iterator[tuple[Any, Any]]:
    """PyAV's container and its first stream of a kind; what goes wrong inside is said in a sentence.

    Raises:
        MediaError: PyAV is missing; the file is not one of sounds or films, has no such stream, or is damaged.
    """
    file.seek(0)
    start = file.read(64)
    file.seek(0)
    name = container_of(start)
    if name is None:
        known = "WAV, OGG, FLAC, MP3, M4A or AIFF" if kind == "audio" else "MP4, MOV, MKV, WebM, AVI or GIF"
        raise MediaError(f"{path}: is not {_WORDS[kind]} that is read here ({known}): it begins with {start[:8]!r}")
    try:
        import av
    except ImportError as error:
        rest = "; WAV files need nothing more" if kind == "audio" else ""
        raise MediaError(
            f"{path}: {name} files are read by PyAV; pip install 'fieldforge[video]' brings it{rest}"
        ) from error
    try:
        with av.open(file, format=name) as container:
            streams = getattr(container.streams, kind)
            if not streams:
                others = ", ".join(sorted({one.type for one in container.streams})) or "nothing"
                raise MediaError(f"{path}: holds no {kind} stream, only {others}")
            if streams[0].codec_context is None:
                raise MediaError(f"{path}: is in a codec that is not known here; convert it, to WAV or MP4 say")
            if kind == "video":
                streams[0].codec_context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
            yield container, streams[0]
    except (MediaError, MemoryError):
        raise
    except Exception as error:
        if not isinstance(error, (av.FFmpegError, ValueError, EOFError)):
            raise
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise MediaError(f"{path}: the {name} file is damaged or cut short ({reason}); get it again") from error
