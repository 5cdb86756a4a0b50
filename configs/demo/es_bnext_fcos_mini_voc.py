# A SMALL configuration: FCOS on a narrow ES-BNext, from scratch, on a devkit of digits on
# photographs, in minutes on two cores. `make demo-det` writes the devkit and runs this
# config and its baseline.
_base_ = ['mmdet::_base_/default_runtime.py', '../_base_/fcos.py']

custom_imports = dict(imports=['mmesbnn'])

max_epochs = 18
size = (96, 96)
strides = [8, 16]
classes = ('0', '1', '2')
norm_cfg = dict(type='BN')
# ES in the backbone only: see docs/es_detection.md
binary_conv = dict(type='ESConv2d', tau=1)

model = dict(
    type='FCOS',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    ),
    backbone=dict(
        type='BNext',
        arch=dict(channels=[16, 16, 32, 64], depths=[1, 1, 1]),
        tau=2,
        copy_init='balanced',
        out_indices=(1, 2),
    ),
    neck=dict(
        type='FPN',
        in_channels=[32, 64],
        out_channels=64,
        num_outs=2,
        conv_cfg=binary_conv,
        norm_cfg=norm_cfg,
    ),
    bbox_head=dict(
        _base_.fcos_head,
        num_classes=len(classes),
        in_channels=64,
        feat_channels=64,
        stacked_convs=1,
        strides=strides,
        regress_ranges=((-1, 32), (32, 1e8)),
        conv_cfg=binary_conv,
        norm_cfg=norm_cfg,
    ),
    test_cfg=dict(
        nms_pre=200,
        min_bbox_size=0,
        score_thr=0.02,
        nms=dict(type='nms', iou_threshold=0.5),
        max_per_img=20,
    ),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=size, keep_ratio=True),
    # digits must not be mirrored, so only crops and colours vary
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=size, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]

data_root = 'data/mini_voc/'
metainfo = dict(classes=classes)
train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='ConcatDataset',
        datasets=[
            dict(
                type='CheckedVOCDataset',
                data_root=data_root,
                ann_file=f'VOC{year}/ImageSets/Main/trainval.txt',
                data_prefix=dict(sub_data_root=f'VOC{year}/'),
                metainfo=metainfo,
                filter_cfg=dict(filter_empty_gt=True),
                pipeline=train_pipeline,
            )
            for year in (2007, 2012)
        ],
    ),
)
val_dataloader = dict(
    batch_size=25,
    num_workers=1,
    persistent_workers=False,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CheckedVOCDataset',
        data_root=data_root,
        ann_file='VOC2007/ImageSets/Main/test.txt',
        data_prefix=dict(sub_data_root='VOC2007/'),
        metainfo=metainfo,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='VOCMetric', metric='mAP', eval_mode='11points'),
    dict(type='VOCMetric', metric='mAP', eval_mode='area', prefix='pascal_voc_area'),
]
test_evaluator = val_evaluator

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=1e-3, fused=True),
    clip_grad=dict(max_norm=5.0),
    constructor='BinaryOptimWrapperConstructor',
    paramwise_cfg=dict(kernel_decay=1e-8),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', T_max=max_epochs, eta_min=1e-5, by_epoch=True),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=6)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

custom_hooks = [
    dict(type='FittingCheckpointHook'),
    # exactly binary for the second half of the training
    dict(type='TemperatureHook', binary_from=max_epochs // 2),
    dict(type='ParameterBoundsHook'),
    dict(type='SignFlipHook'),
    dict(type='NaNGuardHook'),
    # compile=True compiles nothing around the network
    dict(type='CompileNetworkHook'),
    dict(type='NumClassCheckHook'),
    dict(type='EpochSeedHook'),
]
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=10),
    checkpoint=dict(type='WholeCheckpointHook', interval=6, max_keep_ckpts=1),
)
randomness = dict(seed=0)

auto_scale_lr = dict(enable=False, base_batch_size=16)
