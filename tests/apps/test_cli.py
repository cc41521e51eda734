"""The command line as a user meets it: each test runs `fieldforge` in a process of its own, or its parser."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fieldforge.apps.cli import main
from fieldforge.apps.images import read_image
from fieldforge.fields.file import load_field
from fieldforge.registry import HOMES, available

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 64 x 48 PNG."""
    path = tmp_path_factory.mktemp("photos") / "face.png"
    Image.fromarray(read_image(ROOT / "data/images/astronaut.png").pixels[80:128, 190:254]).save(path)
    return path


@pytest.fixture(scope="module")
def fitted(photo: Path) -> Path:
    """A field of it, fitted for a few steps."""
    path = photo.with_name("fitted.field")
    assert main(["fit", "image", str(photo), "-o", str(path), "--steps", "30", "--quiet", "--no-report"]) == 0
    return path


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """`fieldforge ARGUMENTS` in a process of its own."""
    command = [sys.executable, "-m", "fieldforge", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload, no-any-return]


def test_fit_render_info_view(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    field, out = tmp_path / "face.field", tmp_path / "big.png"
    done = run("fit", "image", photo, "-o", field, "--steps", 50)
    assert done.returncode == 0, done.stderr
    assert "PSNR" in done.stdout
    assert "step 50/50" in done.stderr, "a line per report where the output is no terminal"
    assert read_image(tmp_path / "face.report.png").width > 1000
    assert main(["render", str(field), "-o", str(out), "--size", "200x150", "--quiet"]) == 0
    assert read_image(out).pixels.shape == (150, 200, 3)
    assert main(["info", str(field)]) == 0
    assert "training step" in capsys.readouterr().out
    assert main(["view", str(field), "--width", "20"]) == 0
    assert main(["view", str(out), "--width", "20"]) == 0


def test_json_lines(photo: Path, tmp_path: Path) -> None:
    done = run("fit", "image", photo, "-o", tmp_path / "x.field", "--steps", 20, "--json", "--no-report")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"progress", "result"} <= {event["event"] for event in events} <= {"message", "progress", "result"}
    assert events[-1]["bytes"] == (tmp_path / "x.field").stat().st_size
    assert events[-1]["steps"] == 20
    assert events[-1]["training_step"].startswith(("native, ", "PyTorch, as "))


def test_quiet_says_nothing(photo: Path, tmp_path: Path) -> None:
    done = run("fit", "image", photo, "-o", tmp_path / "x.field", "--steps", 2, "--quiet", "--no-report")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_info_as_json_is_complete(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(fitted), "--json"]) == 0
    header = json.loads(capsys.readouterr().out)
    assert header["config"]["encoding"]["otype"] == "Grid"
    assert header["metadata"]["run"]["fit"]["n_steps"] == 30
    assert header["metadata"]["signal"]["width"] == 64


def test_a_printed_config_makes_the_same_file(photo: Path, tmp_path: Path) -> None:
    printed = run("fit", "image", photo, "--print-config", "--steps", 7, "--set", "encoding.n_levels=5")
    run_file = tmp_path / "run.toml"
    run_file.write_text(printed.stdout)
    one, other = tmp_path / "one.field", tmp_path / "other.field"
    common = ("--quiet", "--no-report")
    assert run("fit", "image", photo, "-o", one, "--config", run_file, *common).returncode == 0
    changed = ("--steps", 7, "--set", "encoding.n_levels=5")
    assert run("fit", "image", photo, "-o", other, *changed, *common).returncode == 0
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(("stop", "threads"), [(signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_interrupted_and_resumed_is_bit_identical(photo: Path, tmp_path: Path, threads: int, stop: int) -> None:
    whole, parted = tmp_path / "whole.field", tmp_path / "parted.field"
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    arguments = ["fit", "image", str(photo), "--steps", "4000", "--no-report", "--json"]
    assert run(*arguments, "-o", whole, env=environment).returncode == 0
    command = [sys.executable, "-m", "fieldforge", *arguments, "-o", str(parted)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as going:
        assert going.stdout is not None
        assert going.stderr is not None
        while json.loads(going.stdout.readline())["event"] != "progress":
            pass  # the first report: training is on its way
        going.send_signal(stop)
        said = going.stderr.read()
        assert going.wait(60) == 130, said
    assert "--resume" in said
    assert not parted.exists()
    again = run(*arguments, "-o", parted)
    assert again.returncode == 2
    assert "--resume" in again.stderr
    assert "--restart" in again.stderr
    resumed = run(*arguments, "-o", parted, "--resume", env=environment)
    assert resumed.returncode == 0, resumed.stderr
    assert parted.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("*.ckpt*")), "checkpoints go when the field is written"


def test_resuming_what_is_finished_does_nothing(photo: Path, fitted: Path) -> None:
    before = fitted.read_bytes()
    done = run("fit", "image", photo, "-o", fitted, "--resume")
    assert done.returncode == 0
    assert "nothing to resume" in done.stderr
    assert fitted.read_bytes() == before


def test_a_killed_fit_leaves_the_old_file_whole(photo: Path, fitted: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.field"
    path.write_bytes(fitted.read_bytes())
    command = [
        sys.executable,
        "-m",
        "fieldforge",
        "fit",
        "image",
        str(photo),
        "-o",
        str(path),
        "--seed",
        "5",
        "--json",
        "--steps",
        "200000",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as going:
        assert going.stdout is not None
        going.stdout.readline()
        time.sleep(0.2)
        going.kill()
    assert path.read_bytes() == fitted.read_bytes()


def bad_field(folder: Path, fitted: Path, how: str) -> Path:
    """A file that is no sound field."""
    path, whole = folder / f"{how}.field", fitted.read_bytes()
    if how == "pickle":
        path.write_bytes(pickle.dumps({"weights": np.zeros(3)}))
    elif how == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data.pkl", "x")
    elif how == "oversized":
        path.write_bytes((2**60).to_bytes(8, "little") + whole[8:])
    elif how == "newer":
        path.write_bytes(whole.replace(b'\\"format\\":1', b'\\"format\\":9', 1))
        assert path.read_bytes() != whole
    else:
        cut = {"empty": b"", "truncated": whole[: len(whole) // 2], "picture": b"\x89PNG\r\n\x1a\n" + bytes(100)}
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 1
        path.write_bytes({**cut, "flipped": bytes(flipped)}[how])
    return path


@pytest.mark.parametrize("how", ["pickle", "zip", "oversized", "newer", "empty", "truncated", "picture", "flipped"])
def test_bad_fields_are_one_sentence(
    how: str, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bad_field(tmp_path, fitted, how)
    assert main(["render", str(path), "-o", str(tmp_path / "out.png")]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert path.name in said
    assert len(said) > 40
    assert not (tmp_path / "out.png").exists()


def bad_photo(folder: Path, how: str) -> Path:
    """A file that is no picture we can fit."""
    path = folder / f"{how}.png"
    if how == "missing":
        return path
    if how == "folder":
        path.mkdir()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("hello")
    elif how == "one pixel":
        Image.fromarray(np.zeros((9, 1, 3), np.uint8)).save(path)
    elif how == "not a number":
        path = folder / "nan.tiff"
        pixels = np.ones((8, 8), np.float32)
        pixels[2, 3] = np.nan
        Image.fromarray(pixels).save(path)
    else:
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:60])
    return path


@pytest.mark.parametrize("how", ["missing", "folder", "empty", "text", "one pixel", "not a number", "truncated"])
def test_bad_photos_are_one_sentence(how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = bad_photo(tmp_path, how)
    assert main(["fit", "image", str(path), "-o", str(tmp_path / "x.field"), "--quiet"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert path.name in said
    assert not (tmp_path / "x.field").exists()


def test_a_url_is_refused_with_a_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "image", "https://example.org/x.png", "-o", "/tmp/x.field"]) == 1
    assert "download" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--setp", "3"], ["--setp", "did you mean --set"]),
        (["--steps", "0"], ["--steps", "at least 1", "0"]),
        (["--steps", "many"], ["--steps", "many"]),
        (["--psnr", "nan"], ["--psnr", "positive", "nan"]),
        (["--max-bytes", "lots"], ["--max-bytes", "100KB", "lots"]),
        (["--backend", "cuad"], ["--backend", "cuad", "did you mean cuda"]),
        (["--preset", "balancd"], ["preset", "balancd", "did you mean balanced"]),
        (["--set", "encoding.n_level=3"], ["encoding.n_level", "did you mean n_levels"]),
        (["--set", "encoding.n_levels=999"], ["encoding.n_levels", "999", "64"]),
        (["--config", "no-such.toml"], ["no-such.toml"]),
        (["--seed", "-1"], ["seed", "-1"]),
        (["-o", "/no/such/folder/x.field"], ["/no/such/folder", "does not exist"]),
        (["-o", "/"], ["folder"]),
        (["--max-bytes", "10"], ["max_bytes", "10", "--preset tiny"]),
        (["--resume", "--restart"], ["--restart", "--resume"]),
    ],
)
def test_usage_errors_name_the_value_and_the_way_out(
    arguments: list[str], words: list[str], photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = [] if "-o" in arguments else ["-o", str(tmp_path / "x.field")]
    try:
        code = main(["fit", "image", str(photo), "--quiet", *output, *arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    said = capsys.readouterr().err
    assert code == 2, said
    assert said.count("\n") == 1, said
    assert all(word in said for word in words), said
    assert not (tmp_path / "x.field").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--size", "0x10"], ["size", "0x10"]),
        (["--size", "ten"], ["--size", "4000x3000", "ten"]),
        (["--size", "99999999x99999999"], ["99999999x99999999"]),
        (["--scale", "-1"], ["--scale", "-1"]),
        (["--crop", "1,2,3"], ["--crop", "1,2,3"]),
        (["--crop", "0,0,0,5"], ["crop", "positive"]),
        (["--crop", "0,0,nan,5"], ["crop"]),
        (["--size", "2x2", "--scale", "3"], ["--scale", "--size"]),
    ],
)
def test_bad_views_are_usage_errors(
    arguments: list[str], words: list[str], fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["render", str(fitted), "-o", str(tmp_path / "x.png"), *arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    said = capsys.readouterr().err
    assert code == 2, said
    assert all(word in said for word in words), said


def test_unknown_suffix_names_the_known_ones(fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", str(fitted), "-o", str(tmp_path / "x.gif")]) != 0
    assert ".png" in capsys.readouterr().err


def test_nothing_is_written_over_what_is_read(photo: Path, fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["fit", "image", str(photo), "-o", str(photo)], ["render", str(fitted), "-o", str(fitted)]):
        before = Path(command[-1]).read_bytes()
        assert main(command) == 2
        assert "is the file that is read" in capsys.readouterr().err
        assert Path(command[-1]).read_bytes() == before


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    plain, debug = (run("info", tmp_path / "none.field", *more) for more in ([], ["--debug"]))
    assert plain.returncode == 1
    assert "Traceback" not in plain.stderr
    assert "Traceback" in debug.stderr


def test_every_command_has_help() -> None:
    for command in (["fit", "image"], ["render"], ["info"], ["view"], ["doctor"], ["bench"], []):
        with pytest.raises(SystemExit) as stop:
            main([*command, "--help"])
        assert stop.value.code == 0


def test_doctor_lists_operations_and_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    for word in ("torch", "grid", "composite", "reference", "HashGrid", "tinycudann", "cuda"):
        assert word in said


def test_doctor_says_how_fast_a_training_step_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--speed"]) == 0
    assert re.match(
        r"training step( of the preset 'balanced', 8192 pixels: native, \S+ [\d.]+ ms, reference in PyTorch [\d.]+ ms: "
        r"[\d.]+ times as fast|: PyTorch, as .*)",
        capsys.readouterr().out,
    )


def test_asking_for_a_missing_backend_says_which_can(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    assert main(["fit", "image", str(photo), "-o", "/tmp/never.field", "--backend", "cuda", "--quiet"]) == 2
    said = capsys.readouterr().err
    assert "cuda" in said
    assert "reference" in said


def test_a_full_disk_leaves_the_old_file_whole(photo: Path, fitted: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.field"
    path.write_bytes(fitted.read_bytes())
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); from fieldforge.apps.cli import main; "
        "sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["fit", "image", str(photo), "-o", str(path), "--steps", "2", "--quiet", "--no-report", "--seed", "3"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "could not be written" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert path.read_bytes() == fitted.read_bytes()
    assert load_field(path)[0] is not None


def test_every_part_is_listed_in_a_line_that_says_something(capsys: pytest.CaptureFixture[str]) -> None:
    for kind in HOMES:
        assert main(["list", kind, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert list(found) == sorted(available(kind))
        assert all(len(text) >= len("tanh z") and "\n" not in text for text in found.values()), kind
    assert main(["list", "encodings"]) == 0
    assert "HashGrid            Multi-resolution grid of trained features" in capsys.readouterr().out
    assert main(["list", "methods"]) == 0
    assert "siren       sines all through (Sitzmann et al. 2020); of image, audio" in capsys.readouterr().out
    assert main(["list"]) == 0
    assert "KAN, " in capsys.readouterr().out
    assert main(["list", "encoder"]) == 2
    assert "did you mean encoding" in capsys.readouterr().err


def test_no_help_says_that_a_default_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["compare"], ["fit", "image"], ["fit", "audio"], ["render"]):
        with pytest.raises(SystemExit):
            main([*words, "--help"])
        said = capsys.readouterr().out
        assert "default: None" not in said
        assert "default: False" not in said
        assert "(default: auto)" in said
