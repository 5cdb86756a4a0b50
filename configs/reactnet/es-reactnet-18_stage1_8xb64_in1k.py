# ES-ReActNet-18 (tau = 2) on ImageNet, stage 1: real weights, binary activations.
_base_ = ['./reactnet-18_stage1_8xb64_in1k.py']

model = dict(backbone=dict(tau=2))
