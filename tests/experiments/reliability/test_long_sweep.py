"""The long sweep: its jobs are those of its command, and growth is what a life needs more towards its end."""

from itertools import product

from experiments.reliability.long_sweep import growth, jobs, sweep_words


def test_the_jobs_are_those_that_the_command_names_in_this_order() -> None:
    swept = [word.partition("=") for word in sweep_words(2) if "," in word]
    named = product(*([f"{option}={value}" for value in values.split(",")] for option, _, values in swept))
    assert jobs(64) == list(named)


def test_growth_is_zero_where_memory_is_flat_after_a_warm_up_and_the_slope_where_it_is_not() -> None:
    assert growth([100.0, 700.0, 900.0, *[900.0] * 6, 905.0, 900.0, 900.0]) == 0.0
    assert growth([float(number) for number in range(30)]) == 10.0
    assert growth([1.0] * 4 + [9.0] * 4) == 0.0
