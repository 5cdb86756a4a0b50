# BiDet's SSD300 on PASCAL VOC, trained on 07+12 trainval, tested on 07 test.
# 300,000 iterations of Adam, two GPUs with 16 images each.
_base_ = ['./voc0712.py']

widths = (512, 1024, 512, 256, 256, 256)

model = dict(
    type='SingleStageDetector',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[123.0, 117.0, 104.0], std=[1.0, 1.0, 1.0], bgr_to_rgb=True
    ),
    # The published training starts from a classifier's weights; see
    # configs/bidet/README.md. From scratch: --cfg-options model.backbone.init_cfg=None
    backbone=dict(
        type='BiDetVGG',
        init_cfg=dict(
            type='Pretrained', checkpoint='checkpoints/bidet-vgg16.pth', prefix='backbone.'
        ),
    ),
    neck=dict(
        type='BiDetSSDNeck',
        in_channels=widths[:2],
        out_channels=widths,
        level_strides=(2, 2, 1, 1),
        level_paddings=(1, 1, 0, 0),
        l2_norm_scale=20,
    ),
    bbox_head=dict(
        type='BiDetSSDHead',
        num_classes=20,
        in_channels=widths,
        anchor_generator=dict(
            type='ClippedSSDAnchorGenerator',
            scale_major=False,
            input_size=300,
            basesize_ratio_range=(0.2, 0.9),
            strides=[8, 16, 32, 64, 100, 300],
            ratios=[[2], [2, 3], [2, 3], [2, 3], [2], [2]],
        ),
        # as published, detected boxes are not clipped to the image
        bbox_coder=dict(
            type='DeltaXYWHBBoxCoder',
            target_means=[0.0, 0.0, 0.0, 0.0],
            target_stds=[0.1, 0.1, 0.2, 0.2],
            clip_border=False,
        ),
        sigma=0.0,
        loss_reg=dict(type='FeatureEnergyLoss', loss_weight=0.1),
        loss_prior=dict(type='SparseObjectLoss', loss_weight=0.2),
        prior_cfg=dict(score_thr=0.03, iou_threshold=0.45, max_per_class=200),
        init_cfg=dict(type='Xavier', layer='Conv2d', distribution='normal'),
    ),
    train_cfg=dict(
        assigner=dict(
            type='MaxIoUAssigner',
            pos_iou_thr=0.5,
            neg_iou_thr=0.5,
            # more than 0, or a box without area gets an anchor, and its loss is infinite
            min_pos_iou=1e-9,
            ignore_iof_thr=-1,
            gt_max_assign_all=False,
        ),
        sampler=dict(type='PseudoSampler'),
        smoothl1_beta=1.0,
        allowed_border=-1,
        pos_weight=-1,
        neg_pos_ratio=3,
        debug=False,
    ),
    # Published: the 200 best boxes of every class enter suppression, and all remaining
    # boxes are returned. With split_thr=1 classes are suppressed one by one. mmcv's faster
    # way for few boxes shifts each class by the largest coordinate, which is wrong for
    # negative coordinates. nms_pre is more than all scores; -1 would drop the last score of
    # every map.
    test_cfg=dict(
        nms_pre=1_000_000,
        max_per_class=200,
        nms=dict(type='nms', iou_threshold=0.45, split_thr=1),
        min_bbox_size=0,
        score_thr=0.01,
        max_per_img=4000,
    ),
)

input_size = (300, 300)
train_pipeline = [
    *_base_.load_boxes,
    dict(
        type='PhotoMetricDistortion',
        brightness_delta=32,
        contrast_range=(0.5, 1.5),
        saturation_range=(0.5, 1.5),
        hue_delta=18,
    ),
    dict(type='Expand', mean=[123.0, 117.0, 104.0], to_rgb=True, ratio_range=(1, 4), prob=0.5),
    # The published crops are meant to need an overlap with objects, but the check never
    # fails. One image in six is not cropped.
    dict(type='MinIoURandomCrop', min_ious=(0, 0, 0, 0), min_crop_size=0.3),
    dict(type='RandomFlip', prob=0.5),
    dict(type='Resize', scale=input_size, keep_ratio=False),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=input_size, keep_ratio=False),
    *_base_.pack_tested,
]

train_dataloader = dict(
    batch_size=16,
    num_workers=8,
    persistent_workers=True,
    # the drawn samples depend on the number of the draw only
    sampler=dict(type='SeededInfiniteSampler', shuffle=True),
    batch_sampler=None,
    dataset=dict(
        type='SeededConcatDataset',
        datasets=[dict(dataset, pipeline=train_pipeline) for dataset in _base_.voc_trainval],
    ),
)
val_dataloader = dict(batch_size=16, num_workers=4, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# Clipping (clip_grad=dict(max_norm=5)) is an option of the published code, off there.
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-3, weight_decay=0.0, fused=True)
)
# Published defaults. The authors' own runs made the first step at 60,000.
milestones = [30_000, 80_000, 200_000]
param_scheduler = [dict(type='MultiStepLR', by_epoch=False, milestones=milestones, gamma=0.1)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=300_000, val_interval=10_000)

custom_hooks = [
    dict(type='FittingCheckpointHook'),
    # the two terms of the bottleneck are switched on at the first step
    dict(type='BottleneckHook', begin=milestones[0], by_epoch=False),
    dict(type='SignFlipHook'),
    dict(type='NaNGuardHook'),
    # compile=True compiles nothing around the network
    dict(type='CompileNetworkHook'),
    dict(type='NumClassCheckHook'),
    # a resumed training repeats the uninterrupted one
    dict(type='IterSeedHook'),
]
randomness = dict(seed=1)

default_hooks = dict(checkpoint=dict(interval=5000, by_epoch=False))
log_processor = dict(by_epoch=False)

auto_scale_lr = dict(enable=False, base_batch_size=32)
