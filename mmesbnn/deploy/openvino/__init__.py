"""Conversion of networks to OpenVINO graphs whose binary layers run on bits."""
