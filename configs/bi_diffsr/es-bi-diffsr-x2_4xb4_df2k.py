_base_ = ['../_base_/bi_diffsr.py']

model = dict(unet=dict(tau=2))
