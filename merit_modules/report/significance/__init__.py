"""Is the difference between two systems more than chance? Named tests."""
