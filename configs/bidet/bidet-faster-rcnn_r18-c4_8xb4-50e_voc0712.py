# BiDet's Faster R-CNN with ResNet-18 on PASCAL VOC: 59.5 mAP in the BiDet paper.
# README.md compares this recipe with the published ones.
_base_ = ['../_base_/voc0712.py', '../_base_/faster_rcnn.py']

train = _base_.faster_rcnn_train_cfg
test = _base_.faster_rcnn_test_cfg

# A classifier's weights, see README.md. Without them nothing may be frozen: set
# model.backbone.frozen_stages=-1, and init_cfg=None twice.
pretrained = dict(
    type='Pretrained', checkpoint='checkpoints/bidet-resnet18.pth', prefix='backbone.'
)
num_classes = 20

model = dict(
    type='FasterRCNN',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=1,
    ),
    # up to stride 16; the stem keeps its ImageNet weights
    backbone=dict(type='BiDetResNet', frozen_stages=0, init_cfg=pretrained),
    rpn_head=dict(
        type='BiDetRPNHead',
        in_channels=256,
        feat_channels=512,
        anchor_generator=dict(
            type='RoundedAnchorGenerator', scales=[8, 16, 32], ratios=[0.5, 1.0, 2.0], strides=[16]
        ),
        bbox_coder=dict(type='LegacyDeltaXYWHBBoxCoder'),
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
        loss_bbox=dict(type='SmoothL1Loss', beta=1 / 9, loss_weight=1.0),
        sigma=0.001,
        loss_reg=dict(type='FeatureEnergyLoss', loss_weight=0.5),
        # the published code corresponds to attached=False, without a gradient
        loss_prior=dict(type='SparseObjectLoss', loss_weight=0.01, attached=True),
    ),
    roi_head=dict(
        type='BiDetRoIHead',
        shared_head=dict(
            type='BiDetResStage', init_cfg=dict(pretrained, prefix='backbone.stages.3.')
        ),
        bbox_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0, aligned=False),
            out_channels=256,
            featmap_strides=[16],
        ),
        bbox_head=dict(
            type='BiDetBBoxHead',
            in_channels=512,
            roi_feat_size=4,
            num_classes=num_classes,
            bbox_coder=dict(type='LegacyDeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
            loss_bbox=dict(type='SmoothL1Loss', beta=1.0, loss_weight=1.0),
            sigma=0.001,
            loss_reg=dict(type='FeatureEnergyLoss', loss_weight=0.02),
            loss_prior=dict(type='SparseObjectLoss', loss_weight=0.05),
        ),
    ),
    train_cfg=dict(
        rpn=dict(
            train.rpn,
            # every object gets at least its best anchor, even with a small overlap, but no
            # anchor if the overlap is 0
            assigner=dict(train.rpn.assigner, min_pos_iou=1e-5),
            # anchors that cross the border are not trained
            allowed_border=0,
        ),
        rpn_proposal=dict(train.rpn_proposal, nms_pre=12000, max_per_img=2000),
        rcnn=dict(train.rcnn, sampler=dict(train.rcnn.sampler, num=256)),
    ),
    test_cfg=dict(
        rpn=dict(test.rpn, nms_pre=6000),
        rcnn=dict(test.rcnn, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.3)),
    ),
)
del train, test

# The shorter side is 600. The published code crops images that are more than twice as long
# as high. Here these few images are made smaller.
resize = dict(type='Resize', scale=(1200, 600), keep_ratio=True)
train_pipeline = [*_base_.load_boxes, resize, *_base_.flip_and_pack]
test_pipeline = [_base_.load_image, resize, *_base_.pack_tested]
# published: difficult objects train like others
train_dataloader = dict(
    dataset=dict(
        datasets=[
            dict(dataset, pipeline=train_pipeline, use_difficult=True)
            for dataset in _base_.voc_trainval
        ]
    )
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-3, weight_decay=0.0, fused=True)
)
milestones = [12, 24, 36, 48]
param_scheduler = [dict(type='MultiStepLR', by_epoch=True, milestones=milestones, gamma=0.1)]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=50, val_interval=1)

custom_hooks = [
    *_base_.custom_hooks,
    # the terms of the bottleneck are switched on at the first step
    dict(type='BottleneckHook', begin=milestones[0]),
]
randomness = dict(seed=1)

auto_scale_lr = dict(enable=False, base_batch_size=32)
