# ReActNet's ImageNet recipe, stage 1 of 2: real weights, binary activations.
# 128 epochs of Adam with a linear learning rate, a ResNet-34 teacher.
_base_ = ['./classifier_runtime.py', './distill_imagenet.py']

model = dict(
    backbone=dict(type='ReActNet', arch='18', weight_binarizer='real'),
    teachers=dict(main=dict(model='resnet34_8xb32_in1k')),
    # with one teacher the loss is half its cross-entropy, so the weight is 2
    distill_loss=dict(loss_weight=2.0),
    teacher_autocast=False,
)

train_pipeline = [
    _base_.load,
    dict(_base_.random_crop, interpolation='bilinear'),
    # As published, with almost no effect: noise for images in 0..1 is added to images in
    # 0..255, which lowers some channels by one level. At the intended strength (times 255)
    # mmpretrain's transform would overflow in 8 bits. Rows are B, G, R.
    dict(
        type='Lighting',
        alphastd=0.1,
        eigval=[0.2175, 0.0188, 0.0045],
        eigvec=[[-0.5836, -0.6948, 0.4203], [-0.5808, -0.0045, -0.8140], [-0.5675, 0.7192, 0.4009]],
    ),
    _base_.flip,
    _base_.pack,
]
test_pipeline = [
    _base_.load,
    dict(_base_.resize_edge, scale=256, interpolation='bilinear'),
    _base_.centre_crop,
    _base_.pack,
]

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='Adam', lr=2.5e-3, weight_decay=0.0, fused=True),
    # only kernels and shifts decay
    constructor='BinaryOptimWrapperConstructor',
    paramwise_cfg=dict(kernel_decay=1e-5),
)
# Epoch k runs at lr (1 - k / 128). The published code steps before the epoch and not after
# it, so its last epoch runs at 0 and trains nothing.
param_scheduler = [
    dict(type='LinearLR', start_factor=1.0, end_factor=0.0, by_epoch=True, begin=0, end=129)
]

train_cfg = dict(by_epoch=True, max_epochs=128, val_interval=1)

custom_hooks = _base_.checks
