"""The forms that an engine is packed in on request: one file each, see `app.catalog.packages`."""
