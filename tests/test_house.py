"""The house itself: imports go one way, a wheel holds each file once, PYTHONPATH=<root> is harmless."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("encodings", "fields", "renderers", "apps")
MAY_IMPORT = {
    "ground floor": set(),
    "encodings": {"encodings"},
    "fields": {"encodings", "fields"},
    "renderers": {"renderers"},
    "apps": set(ROOMS),
}


def python_files() -> list[Path]:
    rooms = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    return rooms + list((ROOT / "src/fieldforge").glob("*.py")) + list((ROOT / "src/fieldforge/kernels").rglob("*.py"))


def imported_rooms(source: str) -> set[str]:
    """Rooms named by the import statements that run when the module is imported."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return {parts[1] for name in names if (parts := name.split("."))[0] == "fieldforge" and len(parts) > 1} & set(ROOMS)


def forbidden_imports() -> list[str]:
    wrong = []
    for path in python_files():
        relative = path.relative_to(ROOT)
        room = relative.parts[0] if relative.parts[0] in ROOMS else "ground floor"
        if relative.name in ("__init__.py", "__main__.py") and relative.parts[:2] == ("src", "fieldforge"):
            continue  # the face re-exports from every room
        extra = imported_rooms(path.read_text()) - MAY_IMPORT[room]
        wrong += [f"{relative} imports fieldforge.{name}" for name in sorted(extra)]
    return wrong


def test_imports_go_one_way() -> None:
    assert forbidden_imports() == []


def test_the_import_test_can_see() -> None:
    assert imported_rooms("from fieldforge.renderers import cameras") == {"renderers"}
    assert imported_rooms("from fieldforge import apps") == {"apps"}


def test_no_package_file_in_encodings() -> None:
    """With one, PYTHONPATH=<root> would replace the standard library's `encodings`."""
    assert not (ROOT / "encodings/__init__.py").exists()


def test_pythonpath_root_starts() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "print(1)"], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr


def test_importing_is_light_and_silent() -> None:
    """No prints, no heavy optional packages, no device touched by `import fieldforge`."""
    code = "import sys, fieldforge; print([m for m in ('matplotlib', 'cv2', 'torch', 'OpenEXR') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_every_room_has_a_page() -> None:
    for room in (*ROOMS, "data", "tests"):
        page = ROOT / room / "README.md"
        assert page.is_file(), f"{room}/README.md is missing"
        assert len(page.read_text()) > 300, f"{room}/README.md says too little"


def test_wheel_holds_each_file_once(tmp_path: Path) -> None:
    """The wheel that CI built, or one made here without the native part."""
    wheel = os.environ.get("FIELDFORGE_WHEEL")
    if wheel is None:
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-Cwheel.cmake=false"]
        done = subprocess.run([*command, "-o", str(tmp_path), str(ROOT)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        wheel = str(next(tmp_path.glob("*.whl")))
    listed = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")]
    here = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src/fieldforge").glob("**/*.py")}
    here |= {f"fieldforge/{path.relative_to(ROOT)}" for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    assert sorted(listed) == sorted(here)
