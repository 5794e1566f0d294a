"""The process of one case: it builds the model, then answers commands until its input ends.

    python -m experiments.bench.worker '{"model": "sd15", "method": "lora", ...}'

Commands and answers are lines of JSON on standard input and output: "build", "step" (as often as asked), "kept". What
libraries print goes to standard error. An error is an answer too: {"error": "..."}; the process ends after it.
"""

import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

import torch
from diffusers.utils import logging

from experiments.bench.cases import MODULES, Case
from experiments.bench.files import beside, file_bytes, learned
from experiments.bench.memory import cuda_peak, offer_to_the_kernel, peak, reset_peak, resident
from experiments.bench.saved_activations import kept_bytes
from experiments.bench.sizes import empty_denoiser
from experiments.bench.training import Training, inputs_of

__all__: list[str] = []

GB, MB = 1e9, 1e6
SEED = 0
Answer = dict[str, Any]


class Worker:
    """One case, from an empty process to its figures."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.commands: dict[str, Callable[[], Answer]] = {"build": self.build, "step": self.step, "kept": self.kept}
        self.imports = resident()

    def build(self) -> Answer:
        """Make the denoiser and its training; what that took at the most, and what files it would be."""
        reset_peak()
        generator = torch.Generator().manual_seed(SEED)
        denoiser = empty_denoiser(self.case.setting.model).train()
        self.method().build_(denoiser, self.case, generator)
        if self.case.setting.checkpointing:
            denoiser.enable_gradient_checkpointing()
        self.training = Training(denoiser, inputs_of(self.case, generator))
        personal = learned(denoiser)
        return {
            "import_rss_gb": self.imports / GB,
            "build_rss_gb": peak() / GB,
            "trainable": sum(tensor.numel() for tensor in personal.values()),
            "file_mb": file_bytes(personal) / MB,
            "base_file_mb": file_bytes(beside(denoiser)) / MB,
        }

    def method(self) -> Any:
        """The module that builds the method: it and its libraries are in no other method's process."""
        return importlib.import_module(f"experiments.bench.methods.{MODULES[self.case.method]}")

    def step(self) -> Answer:
        """One training step: its seconds, and the most memory at any moment of it."""
        reset_peak()
        seconds = self.training.step()
        cuda = cuda_peak() if self.case.setting.device != "cpu" else None
        return {**vars(seconds), "peak_rss_gb": peak() / GB, "cuda_peak_gb": None if cuda is None else cuda / GB}

    def kept(self) -> Answer:
        """What autograd keeps, from a forward pass that is not timed."""
        return {"kept_gb": kept_bytes(self.training.denoiser, self.training.loss) / GB}


def serve(worker: Worker, commands: TextIO, answers: TextIO) -> int:
    """Answer every line; the exit code."""
    for line in commands:
        try:
            answer = worker.commands[line.strip()]()
        except (
            ArithmeticError,
            AttributeError,
            ImportError,
            LookupError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            first = str(error).strip().splitlines() or [""]
            answer = {"error": f"{type(error).__name__}: {first[0]}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if "error" in answer:
            return 1
    return 0


def main() -> None:
    """Keep standard output for answers alone, and serve."""
    offer_to_the_kernel()
    logging.set_verbosity_error()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.exit(serve(Worker(Case.of(json.loads(sys.argv[1]))), sys.stdin, answers))


if __name__ == "__main__":
    main()
