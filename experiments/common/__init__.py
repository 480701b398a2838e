"""Code that experiments share: records, resumable cells, models and measures."""
