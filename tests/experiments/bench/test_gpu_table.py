"""The table of steps on a card: ratios to LoRA of the same kind, memory of a step apart from what was there before."""

from experiments.bench.gpu.table import table

HEAD = ("size", "method", "precision", "batch", "checkpointing", "graph", "ms", "peak_gb", "built_gb", "error")


def row(*values: str) -> dict[str, str]:
    return dict(zip(HEAD, values, strict=True))


def test_it_compares_what_ran_alike_and_leaves_out_what_failed() -> None:
    made = table(
        [
            row("sd15", "ours", "bf16", "1", "False", "True", "30", "2.0", "0.5", ""),
            row("sd15", "ours", "bf16", "1", "False", "False", "90", "2.6", "0.9", ""),
            row("sd15", "lora_half", "bf16", "1", "False", "True", "60", "3.0", "2.0", ""),
            row("sd15", "qlora", "bf16", "1", "False", "True", "", "", "", "RuntimeError: no"),
            row("sd15", "ours", "bf16", "1", "True", "True", "40", "1.0", "0.6", ""),
        ]
    ).splitlines()
    assert [cell.strip() for cell in made[2].strip("|").split("|")] == [
        *("sd15", "1", "ours", "30.0", "90.0", "0.50", "-", "0.50", "1.50"),
    ]
    assert "1.00 | - | 2.00 | 1.00" in made[3]
    assert "checkpointing | 1 | ours | 40.0 | - | - | - | 0.50 | 0.40" in made[4]
    assert len(made) == 5
