# Parts of FCOS that all detectors here share: `fcos_head`, to which a head adds entries.
fcos_head = dict(
    type='FCOSHead',
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
)
