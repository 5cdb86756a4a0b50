# PASCAL VOC as mmdet reads it: training on 07+12 trainval, testing on 07 test. Families add
# pipelines. `datasets` is a list, so they use `voc_trainval` and set `pipeline`.
_base_ = ['mmdet::_base_/default_runtime.py']

custom_imports = dict(imports=['mmesbnn'])

# steps of the families' pipelines
load_image = dict(type='LoadImageFromFile')
load_boxes = [load_image, dict(type='LoadAnnotations', with_bbox=True)]
flip_and_pack = [dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')]
# loaded after resizing, so the true boxes stay those of the original image
pack_tested = [
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]

data_root = 'data/VOCdevkit/'
voc_trainval = [
    dict(
        type='CheckedVOCDataset',
        data_root=data_root,
        ann_file=f'VOC{year}/ImageSets/Main/trainval.txt',
        data_prefix=dict(sub_data_root=f'VOC{year}/'),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
    )
    for year in (2007, 2012)
]

train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    # new workers per epoch, so that EpochSeedHook can seed them
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(
        type='ConcatDataset',
        # the data sets have different years
        ignore_keys=['dataset_type'],
        datasets=voc_trainval,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=False,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CheckedVOCDataset',
        data_root=data_root,
        ann_file='VOC2007/ImageSets/Main/test.txt',
        data_prefix=dict(sub_data_root='VOC2007/'),
        test_mode=True,
    ),
)
test_dataloader = val_dataloader

# protocol of VOC2007, which the papers use, and of VOC2012
val_evaluator = [
    dict(type='VOCMetric', metric='mAP', eval_mode='11points'),
    dict(type='VOCMetric', metric='mAP', eval_mode='area', prefix='pascal_voc_area'),
]
test_evaluator = val_evaluator

val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

custom_hooks = [
    dict(type='FittingCheckpointHook'),
    dict(type='SignFlipHook'),
    dict(type='NaNGuardHook'),
    # compile=True compiles nothing around the network
    dict(type='CompileNetworkHook'),
    dict(type='NumClassCheckHook'),
    # a resumed training repeats the uninterrupted one
    dict(type='EpochSeedHook'),
]
randomness = dict(seed=0)

default_hooks = dict(
    checkpoint=dict(
        type='WholeCheckpointHook', interval=1, max_keep_ckpts=3, save_best='pascal_voc/mAP'
    )
)
