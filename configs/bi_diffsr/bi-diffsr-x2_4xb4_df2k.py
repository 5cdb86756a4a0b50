_base_ = ['../_base_/bi_diffsr.py']
