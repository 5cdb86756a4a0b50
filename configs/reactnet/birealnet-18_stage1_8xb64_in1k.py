# Bi-Real-18 with the recipe of ReActNet-18, stage 1: real weights, binary activations.
_base_ = ['./reactnet-18_stage1_8xb64_in1k.py']

model = dict(backbone=dict(generalized=False))
