"""Images: files within bounds, as tensors, and resized.

:mod:`.files` needs PIL alone, so nothing is imported here.
"""
