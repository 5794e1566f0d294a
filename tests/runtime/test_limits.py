"""Limits of the machine: each is one line with the place, and the option or the limit to change; bugs stay bugs."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError

from quantbooth.runtime.explain import explain, is_mistake

CUDA = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79 GiB"
CPU = (
    "[enforce fail at alloc_cpu.cpp:130] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "4000000000 bytes. Error code 12 (Cannot allocate memory)"
)


@pytest.fixture
def cfg(tmp_path: Path) -> DictConfig:
    paths = {"outputs": f"{tmp_path}/out", "store": "${paths.outputs}/store", "logs": f"{tmp_path}/logs"}
    return OmegaConf.create(
        {"paths": paths, "base": {"path": f"{tmp_path}/base"}, "tag": None, "report": {"notes": []}}
    )


@pytest.mark.parametrize(
    ("file", "option"),
    [("out/x", "paths.outputs"), ("out/store/x/y", "paths.store"), ("logs", "paths.logs"), ("base/a", "base.path")],
)
@pytest.mark.parametrize(
    "number",
    [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ESTALE, errno.EIO],
)
def test_an_error_of_storage_names_the_file_and_the_option_that_chose_its_place(
    cfg: DictConfig, tmp_path: Path, number: int, file: str, option: str
) -> None:
    error = OSError(number, os.strerror(number), f"{tmp_path}/{file}")
    assert is_mistake(error)
    line = explain(error, cfg=cfg)
    assert f"{tmp_path}/{file} " in line.replace(";", " ")
    assert f"set {option} to another folder" in line
    assert "\n" not in line


@pytest.mark.parametrize(("file", "removed"), [("out/store/unfinished/x", True), ("logs/csv", True), ("base/x", False)])
def test_a_folder_that_is_removed_meanwhile_is_told_from_a_missing_input(
    cfg: DictConfig, tmp_path: Path, file: str, removed: bool
) -> None:
    line = explain(FileNotFoundError(errno.ENOENT, "No such file or directory", f"{tmp_path}/{file}"), cfg=cfg)
    assert f"{tmp_path}/{file}" in line
    assert ("removed while the command ran" in line) == removed


def test_a_place_that_no_option_chose_names_none(cfg: DictConfig) -> None:
    assert "set " not in explain(OSError(errno.ENOSPC, "full", "/somewhere/else"), cfg=cfg)
    assert "set paths.outputs to" in explain(OSError(errno.EROFS, "read-only", "out/logs/runs"), "quantbooth")


@pytest.mark.parametrize("unit", ["", "GPU"])
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 3.00 GiB for an array with shape (1,) and data type float32"),
        RuntimeError(CPU),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        torch.OutOfMemoryError(CUDA),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_full_memory_names_the_options_that_need_less(error: Exception, unit: str) -> None:
    line = explain(error)
    assert is_mistake(error)
    assert all(option in line for option in ("protocol.batch", "tuner.train_batch_size", "calibration.rounding.batch"))
    assert ("GPU" in line) == ("CUDA" in str(error)) or not unit
    assert ("2.50 GiB" in line) == (CUDA in str(error))


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (OSError(errno.EMFILE, "Too many open files", "/a/b.png"), ("/a/b.png", "ulimit -n")),
        (OSError(errno.ENFILE, "Too many open files in system"), ("ulimit -n",)),
        (RuntimeError("can't start new thread"), ("ulimit -u", "OMP_NUM_THREADS=1")),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), ("ulimit -u",)),
        (SafetensorError("Error while serializing: I/O error: File too large (os error 27)"), ("ulimit -f",)),
        (RuntimeError("[Errno 122] Disk quota exceeded"), ("quota",)),
    ],
)
def test_other_limits_name_what_raises_them(error: Exception, wanted: tuple[str, ...]) -> None:
    assert is_mistake(error)
    assert all(word in explain(error) for word in wanted)


@pytest.mark.parametrize(
    "text",
    [
        "libtorch_cpu.so: failed to map segment from shared object",
        "numpy failed: /usr/lib/libx.so.3: cannot allocate memory in static TLS block",
        "libx.so.1: cannot create shared object descriptor: Cannot allocate memory",
    ],
)
def test_a_library_for_which_no_memory_is_left_is_named_with_the_limit(text: str) -> None:
    line = explain(ImportError(text))
    assert is_mistake(ImportError(text)) and ".so" in line and "ulimit -v" in line and "\n" not in line


def test_a_limit_of_memory_below_torch_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    command = 'ulimit -v 600000; exec "$0" -m quantbooth.programs calibrate'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and "ulimit -v" in done.stderr
    assert not list(tmp_path.rglob("*.log"))


@pytest.mark.parametrize(
    "text", ["libx.so: failed to map segment from shared object: Operation not permitted", "No module named 'x'"]
)
def test_other_errors_of_imports_are_no_limits_of_memory(text: str) -> None:
    assert not is_mistake(ImportError(text))


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), SafetensorError("invalid header"), KeyError("full")])
def test_bugs_are_no_limits(error: Exception) -> None:
    assert not is_mistake(error)


PROGRAM = """
import sys
from quantbooth.runtime.ending import ended
def run():
    for _ in range(int(sys.argv[1])):
        print("x" * 99)
    return 0
sys.exit(ended(run))
"""


@pytest.mark.parametrize("lines", [1, 5000])
@pytest.mark.parametrize(("redirected", "code", "said"), [("> /dev/full", 2, 1), (">&-", 0, 0), ("| true", 141, 0)])
def test_standard_output_that_cannot_be_written_ends_without_a_traceback(
    lines: int, redirected: str, code: int, said: int
) -> None:
    # `sleep` lets the reader of the pipe end first
    command = f'sleep 0.5; exec "$0" -c "$1" {lines}'
    shell = f"( {command} ) {redirected}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", shell, sys.executable, PROGRAM], stderr=subprocess.PIPE, text=True, check=False
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (code, said), done.stderr
    assert not said or done.stderr.startswith("quantbooth: ")
