# ReActNet-18 on ImageNet, stage 1: real weights, binary activations.
_base_ = ['../_base_/reactnet_stage1_imagenet.py']
