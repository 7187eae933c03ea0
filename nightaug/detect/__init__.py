"""Detectors: data for them, training, detections and their evaluation."""
