"""Reading and writing sounds: every kind of WAV, hostile headers, parts, and figures of how alike two are."""

from __future__ import annotations

import io
import random
import struct
import wave
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from fieldforge.apps.media import MediaError
from fieldforge.apps.render.audio import sample
from fieldforge.apps.sounds import Clip, read_sound, write_wav
from fieldforge.apps.sounds.quality import figures_of, log_spectral_distance, snr
from fieldforge.fields.kinds.audio import MAX_SAMPLES, AudioField

TONE = np.stack([np.sin(np.arange(400) / 7), 0.5 * np.cos(np.arange(400) / 5)], 1).astype(np.float32) * 0.9


@pytest.mark.parametrize("n_channels", [1, 2])
@pytest.mark.parametrize("bits", [16, 24, 32])
def test_what_is_written_is_read_here_and_elsewhere(bits: int, n_channels: int, tmp_path: Path) -> None:
    path, tone = tmp_path / "x.wav", TONE[:, :n_channels]
    assert write_wav(path, tone, 8000, bits=bits) == 0
    clip = read_sound(path)
    assert (clip.sample_rate, clip.samples.shape) == (8000, tone.shape)
    np.testing.assert_allclose(clip.samples, tone, atol=0 if bits == 32 else 2.0**-bits + 1e-7)
    rate, theirs = wavfile.read(path)
    theirs = theirs if theirs.ndim == 2 else theirs[:, None]
    largest = {16: 2**15, 24: 2**31, 32: 1}[bits]
    assert rate == 8000
    np.testing.assert_allclose(theirs / largest, clip.samples, atol=1e-7)
    if bits != 32:
        with wave.open(str(path)) as file:
            assert (file.getnframes(), file.getsampwidth(), file.getnchannels()) == (400, bits // 8, n_channels)


@pytest.mark.parametrize(
    ("stored", "scale"),
    [(np.uint8, 128), (np.int16, 2**15), (np.int32, 2**31), (np.float32, 1), (np.float64, 1)],
)
def test_what_others_write_is_read(stored: type, scale: int, tmp_path: Path) -> None:
    codes = (TONE * scale + (128 if stored is np.uint8 else 0)).astype(stored)
    wavfile.write(tmp_path / "x.wav", 44100, codes)
    expected = (codes.astype(np.float64) - (128 if stored is np.uint8 else 0)) / scale
    np.testing.assert_allclose(read_sound(tmp_path / "x.wav").samples, expected, atol=1e-7)


def test_a_part_is_what_was_asked_for(tmp_path: Path) -> None:
    write_wav(tmp_path / "x.wav", TONE, 100, bits=32)
    clip = read_sound(tmp_path / "x.wav", start=1.0, stop=1.5)
    assert np.array_equal(clip.samples, TONE[100:150])
    assert clip.start == 1.0
    with pytest.raises(MediaError, match=r"begins at 9 s beyond its end: it is 4\.000 s long"):
        read_sound(tmp_path / "x.wav", start=9.0)


def test_beyond_full_scale_is_clipped_and_counted(tmp_path: Path) -> None:
    loud = np.array([[1.5], [-2.0], [0.25]], np.float32)
    assert write_wav(tmp_path / "x.wav", loud, 8000) == 2
    assert read_sound(tmp_path / "x.wav").samples[:, 0].tolist() == [1 - 2.0**-15, -1.0, 0.25]
    assert write_wav(tmp_path / "x.wav", loud, 8000, bits=32) == 0
    assert np.array_equal(read_sound(tmp_path / "x.wav").samples, loud)


def wav(data: bytes = b"\0\0\1\0" * 8, *, size: int | None = None, **changes: int) -> bytes:
    """A WAV file with a header that may lie."""
    fields = {"tag": 1, "n_channels": 1, "rate": 8000, "pace": 16000, "block": 2, "bits": 16} | changes
    chunk = struct.pack("<HHIIHH", *fields.values())
    body = b"WAVEfmt " + struct.pack("<I", 16) + chunk + b"data"
    body += struct.pack("<I", len(data) if size is None else size) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (wav(b""), "0 samples; a field interpolates between neighbours"),
        (wav(rate=0), "a sample rate of 0 Hz"),
        (wav(n_channels=0, block=0), "0 channels; 1 to 8"),
        (wav(n_channels=9, block=18), "9 channels; 1 to 8"),
        (wav(block=7), "damaged: 1 channels of 16 bits in blocks of 7 bytes"),
        (wav(bits=0, block=0), "damaged: 1 channels of 0 bits"),
        (wav(struct.pack("<4f", 0, 1, float("nan"), 0), tag=3, bits=32, block=4), "1 of 4 samples are not finite"),
        (wav(struct.pack("<2d", 0, 1e300), tag=3, bits=64, block=8), "1 of 2 samples are not finite"),
        (wav()[:12], "holds no samples"),
        (wav()[:40], "holds no samples"),
        (b"RIFF\4\0\0\0WAVE" + wav()[36:], "samples before their format"),
        (b"#EXTM3U\nhttp://example.org/x.wav\n" + b" " * 64, "is not a sound that is read here"),
        (b"\x89PNG\r\n\x1a\n" + b" " * 64, "is not a sound that is read here"),
        (b"OggS" + b"\0" * 200, "damaged or cut short|holds no audio"),
    ],
)
def test_bad_files_are_a_sentence(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=message) as caught:
        read_sound(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_header_that_promises_too_much_gives_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    for size in (2**32 - 1, 1000):
        path.write_bytes(wav(size=size))
        clip = read_sound(path)
        assert clip.n_samples == 16
        assert "32 are there" in clip.notes[0]


def test_hours_are_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    with open(path, "wb") as file:  # sparse: no such memory or disk is taken
        file.write(wav(b"", size=2 * MAX_SAMPLES + 20))
        file.truncate(44 + 2 * MAX_SAMPLES + 20)
    with pytest.raises(MediaError, match=r"1,049 s or more are 8,388,618 samples.*choose a part with --from and --to"):
        read_sound(path)
    assert read_sound(path, start=10.0, stop=10.5).n_samples == 4000


def test_damaged_headers_give_a_clip_or_a_sentence(tmp_path: Path) -> None:
    stream = io.BytesIO()
    wavfile.write(stream, 8000, TONE)
    path, whole, n_clips, said = tmp_path / "x.wav", stream.getvalue(), 0, list[str]()
    for seed in range(300):
        random_ = random.Random(seed)
        broken = bytearray(whole)
        for _ in range(random_.randint(1, 4)):
            broken[random_.randrange(4, 60)] = random_.choice([0, 1, 0x7F, 0xFF, random_.randrange(256)])
        path.write_bytes(bytes(broken[: random_.choice([len(broken), random_.randrange(12, len(broken))])]))
        try:
            read_sound(path)
            n_clips += 1
        except MediaError as error:
            said.append(str(error))
    assert not any("\n" in sentence for sentence in said)
    assert n_clips > 10
    assert len(said) > 50


def test_ogg_and_flac_are_read_by_pyav(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "x.flac"
    with av.open(str(path), "w", format="flac") as file:
        stream = file.add_stream("flac", rate=8000, layout="mono")
        codes = np.round(TONE[:, :1].T * 2**15).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(codes, format="s16", layout="mono")
        frame.sample_rate = 8000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            file.mux(packet)
    clip = read_sound(path, start=0.01)
    assert (clip.sample_rate, clip.n_samples) == (8000, 320)
    np.testing.assert_allclose(clip.samples[:, 0], codes[0, 80:] / 2**15, atol=1e-6)


def test_without_pyav_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    (tmp_path / "x.ogg").write_bytes(b"OggS" + b"\0" * 64)
    with pytest.raises(MediaError, match=r"pip install 'fieldforge\[video\]' brings it; WAV files need nothing"):
        read_sound(tmp_path / "x.ogg")


@pytest.mark.parametrize(
    ("array", "rate", "message"),
    [
        (np.zeros((2, 2, 2)), 8000, r"expected \(n_samples,\)"),
        (np.zeros(5, np.uint16), 8000, "expected floats, int16 or int32, got uint16"),
        (np.zeros(5), 0, "a sample rate of 0 Hz"),
        (np.zeros(1), 8000, "1 samples"),
        ([0.0, 1.0], 8000, "expected a NumPy array or torch tensor, got list"),
    ],
)
def test_bad_arrays_are_a_sentence(array: object, rate: int, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        Clip.from_array(array, rate)


def test_snr_and_the_distance_of_spectrograms_are_their_formulas() -> None:
    rng = np.random.default_rng(0)
    source = rng.standard_normal((5000, 2))
    noise = rng.standard_normal((5000, 2))
    noise *= np.sqrt((source**2).sum() / (noise**2).sum()) / 10  # 20 dB below
    assert snr(source, source + noise) == pytest.approx(20)
    assert log_spectral_distance(source, 2 * source) == pytest.approx(20 * np.log10(2), abs=1e-6)
    assert log_spectral_distance(source, source) == 0
    assert set(figures_of(0 * source, noise).values()) == {None}, "nothing is defined against silence"


def test_a_lower_rate_does_not_fold_high_tones_back() -> None:
    """A field that is a tone of 3 kHz, heard at 4 kHz, is nearly silent; one of 500 Hz is what it was."""
    for frequency, loudness in ((3000.0, 0.0), (500.0, 0.5)):
        sine = {"otype": "MLP", "n_neurons": 1, "n_hidden_layers": 1, "activation": {"otype": "Sine", "omega": 1.0}}
        field = AudioField(encoding="Identity", network=sine, n_samples=8000, sample_rate=8000)
        field.network.layers[0].weight.data.fill_(2 * np.pi * frequency)
        field.network.layers[1].weight.data.fill_(1.0)
        low = sample(field, 4000)
        assert low.shape == (4000, 1)
        assert float(np.mean(low[200:-200] ** 2)) == pytest.approx(loudness, abs=2e-3)
        if loudness:
            expected = np.sin(2 * np.pi * frequency * (np.arange(4000) + 0.5) / 4000)
            np.testing.assert_allclose(low[200:-200, 0], expected[200:-200], atol=5e-3)
    assert sample(field, 96000).shape == (96000, 1)
