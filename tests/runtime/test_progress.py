"""The progress bar says what is done in the verb's own words."""

from quantbooth.runtime.lightning import Bar


def test_every_loop_shows_the_sentence_it_was_given() -> None:
    bar = Bar("tuning toy_mug")
    shown = {bar.predict_description, bar.test_description, bar._get_train_description(0)}
    assert shown == {"tuning toy_mug"}
