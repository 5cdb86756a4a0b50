# A SMALL configuration: the baseline of es_bnext_fcos_mini_voc.py, at the same number
# of operations.
_base_ = ['./es_bnext_fcos_mini_voc.py']

model = dict(backbone=dict(tau=1))
