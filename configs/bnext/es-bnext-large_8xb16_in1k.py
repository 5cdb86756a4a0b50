# ES-BNext-L (tau = 2): the recipe of the baseline, expanded and shrunk.
_base_ = ['./bnext-large_8xb16_in1k.py']

model = dict(backbone=dict(tau=2))
