# BI-DiffSR's training, for magnification 2. See configs/bi_diffsr/README.md.
custom_imports = dict(imports=['mmesbnn'])
default_scope = 'mmengine'

scale = 2
model = dict(
    type='SRDiffusion',
    scale=scale,
    unet=dict(type='BIDiffSRUNet', tau=1),
    # 2000 steps, beta linear from 1e-6 to 1e-2
    scheduler=dict(total_steps=2000),
    # one timestep per image; 'batch' draws one per GPU, as in the published code
    timesteps='each',
    loss='l1',
    sampling=dict(num_inference_steps=50),
    # 'scheduler' clips x0 to [-1, 1], as in the published code
    pipeline=dict(x0_clip='data'),
    seed=10,
)

# folders of the unpacked DIV2K and Flickr2K; benchmarks have the layout of BasicSR
data_root = 'data'
train_dataloader = dict(
    batch_size=4,  # x 4 GPUs
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='SeededInfiniteSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='PairedSRDataset',
        scale=scale,
        data_root=data_root,
        hr=['DIV2K/DIV2K_train_HR', 'Flickr2K/Flickr2K_HR'],
        lr=[f'DIV2K/DIV2K_train_LR_bicubic/X{scale}', f'Flickr2K/Flickr2K_LR_bicubic/X{scale}'],
        crop_size=128,
        augment=True,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='PairedSRDataset',
        scale=scale,
        data_root=data_root,
        hr=['Set5/HR'],
        lr=[f'Set5/LR_bicubic/X{scale}'],
    ),
)
test_sets = ['Set5', 'B100', 'Urban100', 'Manga109']
test_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='PairedSRDataset',
        scale=scale,
        data_root=data_root,
        hr=[f'{name}/HR' for name in test_sets],
        lr=[f'{name}/LR_bicubic/X{scale}' for name in test_sets],
    ),
)
# on luma, without a border as wide as the magnification; add dict(type='LPIPS') if the
# package lpips is installed
val_evaluator = [
    dict(type='PSNR', crop_border=scale, convert_to='Y'),
    dict(type='SSIM', crop_border=scale, convert_to='Y'),
]
test_evaluator = val_evaluator

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='Adam', lr=1e-4, betas=(0.9, 0.99), weight_decay=0, fused=True),
)
# a constant learning rate
param_scheduler = []
train_cfg = dict(type='IterBasedTrainLoop', max_iters=1_000_000, val_interval=20_000)
val_cfg = dict()
test_cfg = dict()

custom_hooks = [
    dict(type='NaNGuardHook'),
    # compile=True compiles nothing around the network
    dict(type='CompileNetworkHook'),
    dict(type='IterSeedHook'),
]
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=100, log_metric_by_epoch=False),
    checkpoint=dict(
        type='WholeCheckpointHook',
        by_epoch=False,
        interval=20_000,
        max_keep_ckpts=3,
        save_best='Set5/PSNR',
        rule='greater',
    ),
)
log_processor = dict(type='LogProcessor', by_epoch=False)
randomness = dict(seed=10)
