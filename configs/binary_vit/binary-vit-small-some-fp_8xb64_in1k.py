# BinaryViT with full-precision convolutions between the stages.
_base_ = ['./binary-vit-small_8xb64_in1k.py']

model = dict(backbone=dict(some_fp=True))
