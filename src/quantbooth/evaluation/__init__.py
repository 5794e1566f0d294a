"""Scores of pictures: encoders, locators, the scorer that holds them, rows per picture."""
