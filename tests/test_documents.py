"""Documents: figures in them are the report's own, links lead to files, the site builds, the notebook runs."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from diffusers import UNet2DConditionModel
from nbclient import NotebookClient

from experiments.show import ROOMS
from quantbooth.quant import scale_sets
from quantbooth.runtime.help import Group, options_of, read_groups, with_inherited

TOP = Path(__file__).parents[1]

DOCUMENTS = [
    Path("README.md"),
    *(file.relative_to(TOP) for room in ROOMS for file in sorted((TOP / room).glob("*.md"))),
]
PAGES = [file.relative_to(TOP) for file in sorted((TOP / "docs").rglob("*.md"))]
MADE_BY_THE_SITE = re.compile(r"(\.\./)?(images/\w+\.(png|svg)|reference/(commands|options)\.md)")
SHOWN = re.compile(r"<!-- shows (\S+?)[ ,].*?-->\n(.*?)\n<!-- end -->", re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_a_table_is_shown_to_the_letter(document: Path) -> None:
    text = (TOP / document).read_text()
    shown = SHOWN.findall(text)
    assert len(shown) == text.count("<!-- shows ") == text.count("<!-- end -->")
    for file, table in shown:
        assert table == (TOP / file).read_text().strip(), f"run experiments/show.py: {document} is behind {file}"


def test_the_readme_shows_a_table() -> None:
    assert "experiments/main_table/table.md" in [file for file, _ in SHOWN.findall((TOP / "README.md").read_text())]


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "CHANGELOG.md", *dict.fromkeys(map(str, (*DOCUMENTS, *PAGES)))])
def test_links_to_files_lead_somewhere(repository: Path, name: str) -> None:
    file = repository / name
    links = re.findall(r"\]\(([^)#]+)", file.read_text())
    missing = [link for link in links if not link.startswith("http") and not (file.parent / link).exists()]
    assert [link for link in missing if not MADE_BY_THE_SITE.fullmatch(link)] == []


def test_options_in_the_documents_exist(repository: Path) -> None:
    conf = repository / "conf"
    groups = {group.name: group for group in read_groups(conf, "quantbooth")}
    options = {
        f"{name}.{option.key}"
        for name, group in groups.items()
        for choice in group.choices
        for option in with_inherited(conf / name / f"{choice}.yaml")
    }
    options |= {option.key for file in conf.glob("*.yaml") for option in options_of(file)}
    wrong = []
    for name in ("README.md", "CONTRIBUTING.md", *map(str, PAGES)):
        text = (repository / name).read_text()
        code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL))
        wrong += [(name, key) for key in re.findall(r"(?<![\w.])([a-z]\w*(?:\.\w+)+)=", code) if key not in options]
        wrong = [
            (name, key) for name, key in wrong if not key.startswith(("hydra.launcher.", "hydra.sweeper.", "glibc."))
        ]  # of Hydra's plugins, and of malloc
        for key, values in re.findall(r"(?<![\w./])([a-z]\w*)=([\w,-]+)", code):
            if key in groups:
                wrong += [(name, f"{key}={value}") for value in values.split(",") if not _offered(value, groups[key])]
    assert wrong == []


def _offered(value: str, group: Group) -> bool:
    return value in group.choices or value.isupper()  # NAME is any


@pytest.mark.chain
def test_the_site_builds_without_a_warning(repository: Path, tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="make docs installs it")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.html")}
    assert {"index.html", "reference/commands.html", "reference/options.html"} <= pages
    outside = [
        page for page in pages if re.search(r"<(?:script|link)[^>]+(?:src|href)=\"?http", (tmp_path / page).read_text())
    ]
    assert outside == []
    assert "tuner.steps" in (tmp_path / "reference" / "options.html").read_text()


@pytest.mark.chain
def test_the_notebook_runs(repository: Path) -> None:
    notebook = nbformat.read(repository / "examples" / "quickstart.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # outputs are not committed
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    text = "".join(output.get("text", "") for output in outputs if output.get("name") == "stdout")
    changes = re.findall(r"largest change ([\d.]+)", text)
    assert len(changes) == 2 and all(0 < float(change) < 0.5 for change in changes)


def test_the_layers_alone_work_as_the_readme_says(repository: Path) -> None:
    examples = re.findall(r"```python\n(.*?)```", (repository / "README.md").read_text(), re.DOTALL)
    (example,) = [found for found in examples if "quantize_(" in found]
    denoiser = UNet2DConditionModel(
        sample_size=4,
        in_channels=2,
        out_channels=2,
        block_out_channels=(8, 8),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=2,
        layers_per_block=1,
    )
    inputs = {"x": torch.randn(3, 2, 4, 4), "t": torch.tensor([10, 500, 990]), "text": torch.randn(3, 5, 8)}
    exec(example, {"torch": torch, "unet": denoiser, **inputs})  # our own document
    gains = scale_sets.read(denoiser)
    moved = {name: (rows != 1).any(dim=1).tolist() for name, rows in gains.items()}
    assert len(moved) > 20 and set(map(tuple, moved.values())) == {(True, False, True)}
