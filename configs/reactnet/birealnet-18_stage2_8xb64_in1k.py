# Bi-Real-18 with the recipe of ReActNet-18, stage 2: binary weights and activations.
_base_ = ['./reactnet-18_stage2_8xb64_in1k.py']

model = dict(backbone=dict(generalized=False))
load_from = 'work_dirs/birealnet-18_stage1_8xb64_in1k/epoch_128.pth'
