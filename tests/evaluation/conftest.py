"""Networks of judges, few random weights each."""

from small_networks import network

__all__ = ["network"]
