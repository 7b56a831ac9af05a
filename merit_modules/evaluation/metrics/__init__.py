"""Scores of emotions and of enhanced speech. They know no model."""
