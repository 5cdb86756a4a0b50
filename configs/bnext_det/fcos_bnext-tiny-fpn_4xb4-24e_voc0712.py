# FCOS, without anchors, on BNext-T with a binary pyramid and binary towers.
_base_ = ['../_base_/bnext_det_voc0712.py']

model = dict(
    type='FCOS',
    neck=dict(start_level=1, add_extra_convs='on_output', relu_before_extra_convs=True),
    bbox_head=dict(
        type='FCOSHead',
        num_classes=_base_.num_classes,
        in_channels=256,
        feat_channels=256,
        stacked_convs=2,
        strides=[8, 16, 32, 64, 128],
        conv_cfg=_base_.binary_conv,
        norm_cfg=_base_.norm_cfg,
        # mmdet's three improvements of FCOS
        norm_on_bbox=True,
        centerness_on_reg=True,
        center_sampling=True,
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25),
        loss_bbox=dict(type='GIoULoss', loss_weight=1.0),
        loss_centerness=dict(type='CrossEntropyLoss', use_sigmoid=True),
        init_cfg=dict(
            type='Normal',
            layer='Conv2d',
            std=0.01,
            override=dict(type='Normal', name='conv_cls', std=0.01, bias_prob=0.01),
        ),
    ),
    test_cfg=dict(
        nms_pre=1000,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type='nms', iou_threshold=0.5),
        max_per_img=100,
    ),
)
