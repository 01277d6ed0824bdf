"""The parameters of runtimes, a file a family. A class's docstring is its runtime's documentation."""
