# ES-ReActNet-A (tau = 2) on ImageNet, stage 2: binary weights and activations.
_base_ = ['./reactnet-a_stage2_8xb32_in1k.py']

model = dict(backbone=dict(tau=2))
load_from = 'work_dirs/es-reactnet-a_stage1_8xb32_in1k/epoch_128.pth'
