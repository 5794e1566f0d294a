"""The commands, one module each: parse options, call other packages, print."""
