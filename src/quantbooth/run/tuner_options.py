"""Options of a tuner that would change a run's name and nothing else are refused; what tuning reads of other groups."""

from collections.abc import Mapping, Sequence
from typing import Any

from quantbooth.kinds import shown
from quantbooth.runtime.errors import UserError
from quantbooth.schema_tuner import LEARNER, UNUSED_RATES

__all__ = ["not_read", "require_used"]


def require_used(settings: Mapping[str, Any]) -> None:
    """Check that the tuner uses the options that it is given.

    Raises:
        UserError: for an option of another tuner, a learning rate of parameters that do not learn, two learning rates
            that contradict each other, or adapters of groups without a group.
    """
    tuner, learner = settings["tuner"], settings["tuner"]["learner"]
    foreign = [key for key in LEARNER if tuner.get(key) is not None and key not in learner]
    needs = {"shift_learning_rate": {"biases"}, "adapter_learning_rate": {"rank", "inputs"}}
    foreign += [rate for rate, parts in needs.items() if rate in tuner and not parts <= set(learner)]
    for key in foreign:
        raise UserError(f"tuner.{key}={shown(tuner[key])} is no option of tuner={tuner['name']}; leave it out")
    if "rank" in learner and "group_size" in learner and learner["group_size"] is None:
        raise UserError(
            f"tuner.group_size=null leaves tuner={tuner['name']} without groups; choose a number, or tuner=qlora"
        )
    learns = {
        "shift_learning_rate": ("tuner.biases=true or tuner.norms=true", tuner.get("biases") or tuner.get("norms")),
        "identifier_learning_rate": ("tuner.identifier=true", tuner["identifier"]),
    }
    for key, (needed, there) in learns.items():
        if key in tuner and not there and tuner[key] not in UNUSED_RATES[key]:
            raise UserError(f"tuner.{key}={shown(tuner[key])} needs {needed}; leave it out, or set both")
    if (rate := settings["optimizer"].get("lr", tuner["learning_rate"])) != tuner["learning_rate"]:
        raise UserError(
            f"optimizer.lr={shown(rate)} contradicts tuner.learning_rate={shown(tuner['learning_rate'])}; set "
            "tuner.learning_rate alone"
        )


def not_read(unused: Sequence[str], settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return those of the options of drawing and scoring that do not decide what is tuned.

    A sampler draws class pictures, calibration items and a prompt guard's pictures, and its steps may decide a flow's
    shift; a scorer reads the pictures of the guard. Without its one scheduler, or FLUX.1's guidance of 1, a flow base
    is refused.
    """
    if settings["scale_sets"] is not None:
        return tuple(unused)
    sampler = settings["sampler"]
    if sampler["scheduler"] == "flow_euler" and "sampler" in unused:
        parts = ("sampler.steps", *(["sampler.guidance"] if sampler["guidance"] != 1 else []))
        unused = [part for option in unused for part in (parts if option == "sampler" else (option,))]
    guarded = settings["tuner"]["stopping"]["prompt_drop"] is not None
    calibrated = settings["calibration"]["rounding"] is not None or settings["quant"].get("act_bits") is not None
    drawn = guarded or calibrated or settings["prior"]["num_class_images"] > 0
    shifted = settings["timesteps"].get("name") == "shifted" and settings["timesteps"]["shift"] is None
    read = [group for group, used in (("sampler", drawn), ("sampler.steps", shifted), ("scorer", guarded)) if used]
    return tuple(option for option in unused if not any(f"{option}.".startswith(f"{group}.") for group in read))
