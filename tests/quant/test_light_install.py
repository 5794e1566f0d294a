"""The layers alone: quantbooth.quant works where torch, jaxtyping and safetensors are all that is installed."""

import subprocess
import sys
import tomllib
from pathlib import Path

PROGRAM = """
import re, sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

def with_requirements(names, found):
    for name in names:
        key = re.sub("[-_.]+", "-", name).lower()
        if key not in found:
            found.add(key)
            try:
                lines = [line for line in requires(name) or [] if "extra ==" not in line]
            except PackageNotFoundError:
                continue
            with_requirements([re.match("[A-Za-z0-9._-]+", line)[0] for line in lines], found)
    return found

ALLOWED = with_requirements(["torch", "jaxtyping", "safetensors"], {"quantbooth"})
BLOCKED = {
    package
    for package, names in packages_distributions().items()
    if not {re.sub("[-_.]+", "-", name).lower() for name in names} & ALLOWED
}
assert {"diffusers", "lightning", "hydra", "omegaconf", "transformers", "pandas", "wandb", "PIL"} <= BLOCKED

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):  # what importlib.metadata asks of a finder
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in BLOCKED else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Without, sys.meta_path)

import torch
from quantbooth.quant import activations, adapters, low_rank, merging, observers, rounding
from quantbooth.quant.scale_sets import attach_, parameters
from quantbooth.quant.surgery import quantize_

network = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.SiLU(), torch.nn.Linear(8, 4)).requires_grad_(False)
quantize_(network, 4)
selection = attach_(network, count=2)
selection.choose(torch.tensor([1, 2, 0]))
network(torch.randn(3, 8)).square().mean().backward()
print(sum(gain.grad.abs().sum() > 0 for gain in parameters(network)["gains"]).item())
"""


def test_the_layers_train_with_every_other_library_blocked() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr  # torch warns on stderr that NumPy is missing
    assert int(done.stdout) > 0


def test_an_extra_names_libraries_that_a_whole_install_has_too(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    for extra in ("layers", "clip", "report", "tensorboard", "wandb"):
        assert set(project["optional-dependencies"][extra]) <= set(project["dependencies"]), extra
