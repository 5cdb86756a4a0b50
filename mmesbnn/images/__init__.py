"""Images: safe reading of files, conversion to tensors, resizing.

:mod:`.files` needs PIL only, so nothing is imported here.
"""
