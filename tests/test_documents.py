"""Documents: figures in them are the report's own, and what they link to exists."""

import re
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from quantbooth.quant import scale_sets

TOP = Path(__file__).parents[1]

DOCUMENTS = [Path("README.md"), *sorted(Path("experiments") / file.name for file in (TOP / "experiments").glob("*.md"))]
SHOWN = re.compile(r"<!-- shows (\S+?)[ ,].*?-->\n(.*?)\n<!-- end -->", re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_a_table_is_shown_to_the_letter(document: Path) -> None:
    text = (TOP / document).read_text()
    shown = SHOWN.findall(text)
    assert len(shown) == text.count("<!-- shows ") == text.count("<!-- end -->")
    for file, table in shown:
        assert table == (TOP / file).read_text().strip(), f"run experiments/show.py: {document} is behind {file}"


def test_the_readme_shows_a_table() -> None:
    assert "experiments/first_answer/table.md" in [file for file, _ in SHOWN.findall((TOP / "README.md").read_text())]


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "BEWARE.md", *map(str, DOCUMENTS)])
def test_links_to_files_lead_somewhere(repository: Path, name: str) -> None:
    file = repository / name
    links = re.findall(r"\]\(([^)#]+)", file.read_text())
    missing = [link for link in links if not link.startswith("http") and not (file.parent / link).exists()]
    assert not missing


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
