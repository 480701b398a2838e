"""What experiments share: records, cells, models, measures."""
