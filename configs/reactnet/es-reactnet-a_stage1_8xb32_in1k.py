# ES-ReActNet-A (tau = 2) on ImageNet, stage 1: real weights, binary activations.
_base_ = ['./reactnet-a_stage1_8xb32_in1k.py']

# Published copies start alike; with 'balanced' ES gains more, see docs/es_vs_baseline.md.
model = dict(backbone=dict(tau=2, copy_init='balanced'))
