# ES-ReActNet-A (tau = 2) on ImageNet, stage 1: real weights, binary activations.
_base_ = ['./reactnet-a_stage1_8xb32_in1k.py']

model = dict(backbone=dict(tau=2))
