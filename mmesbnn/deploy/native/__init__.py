"""Compiling networks for the native library."""
