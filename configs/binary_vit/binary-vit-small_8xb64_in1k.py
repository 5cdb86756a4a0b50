# BinaryViT on ImageNet, the published recipe.
_base_ = ['../_base_/binary_vit_imagenet.py']
