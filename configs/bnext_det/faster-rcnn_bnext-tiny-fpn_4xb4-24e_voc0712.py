# Faster R-CNN on BNext-T: binary pyramid, binary proposal network, four binary
# convolutions per region.
_base_ = ['../_base_/bnext_det_voc0712.py', '../_base_/faster_rcnn.py']

model = dict(
    type='FasterRCNN',
    rpn_head=dict(
        type='BiDetRPNHead',
        in_channels=256,
        feat_channels=256,
        # plain boxes, and none of BiDet's bottleneck terms
        sigma=None,
        loss_reg=dict(type='FeatureEnergyLoss', loss_weight=0.0),
        loss_prior=dict(type='SparseObjectLoss', loss_weight=0.0),
        anchor_generator=dict(
            type='AnchorGenerator', scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64]
        ),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=1.0),
    ),
    roi_head=dict(
        type='StandardRoIHead',
        bbox_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0),
            out_channels=256,
            featmap_strides=[4, 8, 16, 32],
        ),
        bbox_head=dict(
            type='ConvFCBBoxHead',
            num_shared_convs=4,
            with_avg_pool=True,
            conv_cfg=_base_.binary_conv,
            norm_cfg=_base_.norm_cfg,
            in_channels=256,
            roi_feat_size=7,
            num_classes=_base_.num_classes,
            bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
            reg_class_agnostic=False,
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
            loss_bbox=dict(type='L1Loss', loss_weight=1.0),
        ),
    ),
    train_cfg=_base_.faster_rcnn_train_cfg,
    test_cfg=_base_.faster_rcnn_test_cfg,
)
