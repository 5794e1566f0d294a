"""The table of launchers: times against one worker, and whether tables are the same bytes."""

from experiments.launchers.compare import document


def test_a_row_is_compared_with_the_same_sweep_of_one_worker() -> None:
    parts = ["table", "page"]
    sweeps = {
        "subjects basic": {"seconds": 200.0, "digest": "a", "parts": parts},
        "subjects ray": {"seconds": 110.0, "digest": "a", "parts": parts},
        "subjects joblib": {"seconds": 100.0, "digest": "b", "parts": parts},
        "intervals ray": {"seconds": 50.0, "digest": "c", "parts": parts},
    }
    lines = document({"sweeps": sweeps, "options": [], "machine": {"cores": 2}}).splitlines()
    rows = [[cell.strip() for cell in line.split("|")[2:6]] for line in lines if line.startswith("| ")][2:]
    assert rows == [
        ["basic", "200", "1.00", "–"],
        ["ray", "110", "0.55", "yes"],
        ["joblib", "100", "0.50", "no"],
        ["ray", "50", "–", "–"],
    ]
