# Plain binary DeiT-S of BinaryViT's ablation: BinaryViT without the pyramid.
_base_ = ['./binary-vit-small_8xb64_in1k.py']

model = dict(backbone=dict(arch='deit-small'), head=dict(in_channels=384))
