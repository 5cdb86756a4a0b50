# RetinaNet on BNext-T with a binary pyramid and binary towers.
_base_ = ['../_base_/bnext_det_voc0712.py']

model = dict(
    type='RetinaNet',
    # mmdet's choice for RetinaNet: strides 8 to 128
    neck=dict(start_level=1, add_extra_convs='on_input'),
    bbox_head=dict(
        type='RetinaHead',
        num_classes=_base_.num_classes,
        in_channels=256,
        feat_channels=256,
        stacked_convs=2,
        conv_cfg=_base_.binary_conv,
        norm_cfg=_base_.norm_cfg,
        anchor_generator=dict(
            type='AnchorGenerator',
            octave_base_scale=4,
            scales_per_octave=3,
            ratios=[0.5, 1.0, 2.0],
            strides=[8, 16, 32, 64, 128],
        ),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25),
        loss_bbox=dict(type='L1Loss', loss_weight=1.0),
        init_cfg=dict(
            type='Normal',
            layer='Conv2d',
            std=0.01,
            override=dict(type='Normal', name='retina_cls', std=0.01, bias_prob=0.01),
        ),
    ),
    train_cfg=dict(
        assigner=dict(
            type='MaxIoUAssigner',
            pos_iou_thr=0.5,
            neg_iou_thr=0.4,
            min_pos_iou=1e-5,
            ignore_iof_thr=-1,
        ),
        sampler=dict(type='PseudoSampler'),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
    test_cfg=dict(
        nms_pre=1000,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type='nms', iou_threshold=0.5),
        max_per_img=100,
    ),
)
