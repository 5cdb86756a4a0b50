# ES-BinaryViT (tau = 2): feed-forwards expanded and shrunk, at the baseline's cost.
_base_ = ['./binary-vit-small_8xb64_in1k.py']

model = dict(backbone=dict(tau=2))
