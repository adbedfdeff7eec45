"""Every figure that the documents claim, measured side by side in one run: ``make bench``."""
