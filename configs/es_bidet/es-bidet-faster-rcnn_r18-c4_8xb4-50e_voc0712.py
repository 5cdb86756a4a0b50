# BiDet's Faster R-CNN with ES (tau = 2): operations and weight bits of the baseline.
_base_ = ['../bidet/bidet-faster-rcnn_r18-c4_8xb4-50e_voc0712.py']

tau = 2
checkpoint = 'checkpoints/es-bidet-resnet18.pth'

model = dict(
    backbone=dict(tau=tau, init_cfg=dict(checkpoint=checkpoint)),
    rpn_head=dict(tau=tau),
    roi_head=dict(
        # regions also have all copies of the backbone's features
        shared_head=dict(tau=tau, init_cfg=dict(checkpoint=checkpoint)),
        bbox_roi_extractor=dict(out_channels=256 * tau),
    ),
)
