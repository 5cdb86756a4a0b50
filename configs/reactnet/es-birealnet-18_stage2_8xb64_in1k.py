# ES-Bi-Real-18 (tau = 2) with that recipe, stage 2: binary weights and activations.
_base_ = ['./birealnet-18_stage2_8xb64_in1k.py']

model = dict(backbone=dict(tau=2))
load_from = 'work_dirs/es-birealnet-18_stage1_8xb64_in1k/epoch_128.pth'
