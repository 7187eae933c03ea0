"""Classes without boxes: ViLD, LP-OVOD and VLDUS on a two-stage detector."""
