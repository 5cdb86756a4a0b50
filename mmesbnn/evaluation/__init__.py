"""Metrics, registered at mmengine's root registry."""

from .image_quality import luma, psnr, ssim
from .sr_metrics import LPIPS, PSNR, SSIM

__all__ = ['LPIPS', 'PSNR', 'SSIM', 'luma', 'psnr', 'ssim']
