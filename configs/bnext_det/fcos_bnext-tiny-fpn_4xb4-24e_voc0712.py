# FCOS, without anchors, on BNext-T with a binary pyramid and binary towers.
_base_ = ['../_base_/bnext_det_voc0712.py', '../_base_/fcos.py']

model = dict(
    type='FCOS',
    neck=dict(start_level=1, add_extra_convs='on_output', relu_before_extra_convs=True),
    bbox_head=dict(
        _base_.fcos_head,
        num_classes=_base_.num_classes,
        in_channels=256,
        feat_channels=256,
        stacked_convs=2,
        strides=[8, 16, 32, 64, 128],
        conv_cfg=_base_.binary_conv,
        norm_cfg=_base_.norm_cfg,
    ),
    test_cfg=dict(
        nms_pre=1000,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type='nms', iou_threshold=0.5),
        max_per_img=100,
    ),
)
