# ES-ReActNet-18 (tau = 2) on ImageNet, stage 1: real weights, binary activations.
_base_ = ['./reactnet-18_stage1_8xb64_in1k.py']

# Published copies start alike; with 'balanced' ES gains more, see docs/es_vs_baseline.md.
model = dict(backbone=dict(tau=2, copy_init='balanced'))
