"""How good results are.

`image_metrics.py`       of an image, by its pixels: PSNR, SSIM, sharpness and others
`perceptual_metrics.py`  by networks that were trained on photographs: LPIPS, FID and KID
"""
