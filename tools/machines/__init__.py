"""Machines on one machine, and what tools/test_machines.py tries on them."""
