"""Running exports: openvino, numpy and pillow only, no torch, no OpenMMLab."""
