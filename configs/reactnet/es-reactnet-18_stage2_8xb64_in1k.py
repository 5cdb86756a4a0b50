# ES-ReActNet-18 (tau = 2) on ImageNet, stage 2: binary weights and activations.
_base_ = ['./reactnet-18_stage2_8xb64_in1k.py']

model = dict(backbone=dict(tau=2))
load_from = 'work_dirs/es-reactnet-18_stage1_8xb64_in1k/epoch_128.pth'
