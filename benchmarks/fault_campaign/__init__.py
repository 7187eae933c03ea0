"""Faults on purpose: processes killed, disks filled, inputs damaged. Run by ``benchmarks/faults.py``."""
