"""The commands, one thin module each: they parse, call what the rooms offer, and print."""
