"""Tables, plots and the page made from scores."""
