_base_ = ['../_base_/bi_diffsr.py']

scale = 4
model = dict(scale=scale)
test_sets = ['Set5', 'B100', 'Urban100', 'Manga109']
train_dataloader = dict(
    dataset=dict(
        scale=scale,
        lr=['DIV2K/DIV2K_train_LR_bicubic/X4', 'Flickr2K/Flickr2K_LR_bicubic/X4'],
        crop_size=256,
    )
)
val_dataloader = dict(dataset=dict(scale=scale, lr=['Set5/LR_bicubic/X4']))
test_dataloader = dict(
    dataset=dict(scale=scale, lr=[f'{name}/LR_bicubic/X4' for name in test_sets])
)
val_evaluator = [
    dict(type='PSNR', crop_border=scale, convert_to='Y'),
    dict(type='SSIM', crop_border=scale, convert_to='Y'),
]
test_evaluator = val_evaluator
