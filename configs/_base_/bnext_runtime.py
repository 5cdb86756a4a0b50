# Shared parts of all BNext recipes: runtime, optimizer and the hooks that train binary
# weights. Published: AdamW, lr 1e-3, gradient norm 5, 512 epochs.
_base_ = ['./classifier_runtime.py']

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=1e-3, fused=True),
    clip_grad=dict(max_norm=5.0),
    # weight decay: 1e-8 for 4-D parameters and latent weights, 1e-3 for the rest
    constructor='BinaryOptimWrapperConstructor',
    paramwise_cfg=dict(kernel_decay=1e-8),
)

# The learning rate starts at 1e-5 and rises by 1.98e-4 per epoch. A cosine with a period of
# 512 epochs follows the warm-up, so the last epoch runs at 4.39e-7.
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, begin=0, end=6),
    dict(type='CosineAnnealingLR', T_max=512, eta_min=1e-7, by_epoch=True, begin=5, end=512),
]

train_cfg = dict(by_epoch=True, max_epochs=512, val_interval=1)

custom_hooks = [
    # weights are exactly binary from epoch 153 on (0.9^153 < 1e-7)
    dict(type='TemperatureHook', decay=0.9),
    dict(type='ParameterBoundsHook'),
    dict(type='SignFlipHook'),
    *_base_.checks,
]
