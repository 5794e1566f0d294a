"""How far the tests can be trusted: planted mistakes, and which of them no test sees."""
