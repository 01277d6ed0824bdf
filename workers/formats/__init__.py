"""One file a format of uploads."""
