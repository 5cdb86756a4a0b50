"""Baseline against ES forms at equal operations: what is trained, and how it is judged."""
