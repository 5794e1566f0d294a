"""Scores of pictures: encoders, locators, the scorer with both, and rows per picture."""
