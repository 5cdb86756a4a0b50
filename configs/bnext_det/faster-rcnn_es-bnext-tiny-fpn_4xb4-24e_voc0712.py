# Faster R-CNN on ES-BNext-T (tau = 2): operations and weight bits of the baseline.
_base_ = ['./faster-rcnn_bnext-tiny-fpn_4xb4-24e_voc0712.py']

# ES in the backbone only: without a residual, as in pyramid and head, it halves the
# number of independent maps, see README.md
model = dict(backbone=dict(tau=2, init_cfg=dict(checkpoint='checkpoints/es-bnext-tiny.pth')))
