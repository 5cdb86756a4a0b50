# Faster R-CNN on ES-BNext-T (tau = 2): operations and weight bits of the baseline.
_base_ = ['./faster-rcnn_bnext-tiny-fpn_4xb4-24e_voc0712.py']

tau = 2
model = dict(
    backbone=dict(tau=tau, init_cfg=dict(checkpoint='checkpoints/es-bnext-tiny.pth')),
    neck=dict(conv_cfg=dict(tau=tau)),
    roi_head=dict(bbox_head=dict(conv_cfg=dict(tau=tau))),
)
