# ES-Bi-Real-18 (tau = 2): the recipe of the baseline, expanded and shrunk.
_base_ = ['./birealnet-18_8xb64_in1k.py']

# Published copies start alike; with 'balanced' ES gains more, see docs/es_vs_baseline.md.
model = dict(backbone=dict(tau=2, copy_init='balanced'))
