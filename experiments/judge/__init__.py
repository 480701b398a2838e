"""The judge judged: known circuits, simulated circuits, calibration."""
