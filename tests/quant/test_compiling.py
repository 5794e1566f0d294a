"""Runs `compiled.py`, in a process that does not check annotations."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.chain


@pytest.mark.parametrize("those", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_quantized_layers_compile_to_one_graph(those: str) -> None:
    file = Path(__file__).with_name("compiled.py")
    words = [sys.executable, "-m", "pytest", "-q", "-m", those, "-o", "addopts=--import-mode=importlib", str(file)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
