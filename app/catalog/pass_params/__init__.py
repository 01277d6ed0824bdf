"""The parameters of passes, by what the passes do. A class's docstring is its pass's documentation."""
