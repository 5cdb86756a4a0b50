_base_ = ['bi-diffsr-x4_4xb4_df2k.py']

model = dict(unet=dict(tau=2))
