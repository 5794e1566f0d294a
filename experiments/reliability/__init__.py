"""Attacks on the program, counted: fuzzed options, mutants, killed runs, failed writes, hostile files."""
