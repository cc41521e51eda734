"""The Triton kernels without a GPU: in the interpreter, and made into code for cards that are not here.

The tests of each kernel are in ``tests/kernels/triton``. Where there is a CUDA device, they run on it as they are;
everywhere else, in processes of their own, as Triton must be told of its interpreter before it is imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from fieldforge import backends
from fieldforge.kernels.triton import door

HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(
    door.installed() is None, reason="Triton is not installed: none of its kernels was tried"
)


def run_apart(*arguments: str, interpreted: bool) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1" if interpreted else "0"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=HERE.parent.parent)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout, done.stdout


def test_the_interpreter_passes_the_tests() -> None:
    run_apart(str(HERE / "triton"), "-m", "not slow", interpreted=True)


@pytest.mark.slow
def test_the_interpreter_passes_the_slow_tests() -> None:
    run_apart(str(HERE / "triton"), "-m", "slow", interpreted=True)


@pytest.mark.slow
def test_every_kernel_becomes_code_for_ampere_and_hopper() -> None:
    run_apart(str(HERE / "triton" / "compile_all.py"), interpreted=False)


def test_importing_the_engine_does_not_import_triton() -> None:
    code = (
        "import sys, fieldforge.fields.fused, fieldforge.renderers.marching, fieldforge.renderers.compositing; "
        "from fieldforge.backends import report; report(); "
        "print([name for name in sys.modules if name.split('.')[0] == 'triton'])"
    )
    # where there is a card, the report looks whether Triton starts on it
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    )
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


def test_without_a_compiler_the_kernels_are_missing_and_the_reason_says_what_would_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Triton itself loads then, and its first kernel would fail."""

    class Driver:
        @property
        def active(self) -> object:
            raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    card = SimpleNamespace(is_available=lambda: True, get_device_capability=lambda: (9, 0))
    monkeypatch.setattr(door.torch, "cuda", card)
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(runtime=SimpleNamespace(driver=Driver())))
    why = door.missing.__wrapped__()
    assert "does not start (it needs a C compiler and Python's headers" in why
    assert why.endswith("RuntimeError: Failed to find C compiler. Please specify via CC")


def test_the_report_says_what_is_missing() -> None:
    import fieldforge.encodings.grid  # noqa: F401  # provides

    row = next(row for row in backends.report() if (row.operation, row.backend) == ("grid", "cuda"))
    reason = door.missing()
    assert row.is_available == (reason is None)
    if reason is not None:
        assert row.reason == reason
        assert "no CUDA device" in reason or "capability" in reason
