"""Datasets as their files have them: read by row, decoded, transformed as data says."""
