"""The strong operations, batched, on any device: each equals the PIL call that it names, one image at a time.

Every operation takes `images`, a uint8 tensor (n, 3, H, W), and `magnitude`, a float tensor (n,) with each image's
strength, and returns a uint8 tensor of the same shape. The published recipe was written with PIL, so PIL's rounding is
part of it: each operation reproduces the named PIL call exactly.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

MAGNITUDES = 31  # of RandAugment

Operation = tuple[Callable[[torch.Tensor, torch.Tensor], torch.Tensor], float, float]


def operation_table(posterize_bits: tuple[int, int] = (1, 1)) -> dict[str, Operation]:
    """The strong operations as {name: (function, lowest magnitude, highest magnitude)}."""
    return {
        "AutoContrast": (autocontrast, 0, 1),
        "Brightness": (brightness, 0.05, 0.95),
        "Color": (color, 0.05, 0.95),
        "Contrast": (contrast, 0.05, 0.95),
        "Equalize": (equalize, 0, 1),
        "Identity": (identity, 0, 1),
        "Posterize": (posterize, *posterize_bits),
        "Rotate": (rotate, -30, 30),
        "Sharpness": (sharpness, 0.05, 0.95),
        "ShearX": (shear_x, -0.3, 0.3),
        "ShearY": (shear_y, -0.3, 0.3),
        "Solarize": (solarize, 0, 256),
        "TranslateX": (translate_x, -0.3, 0.3),
        "TranslateY": (translate_y, -0.3, 0.3),
    }


def rand_augment_table(magnitude: int, height: int, width: int) -> dict[str, Operation]:
    """The operations of torchvision's RandAugment as {name: (function, one magnitude, the other)}.

    magnitude: 0 to MAGNITUDES - 1, of images of `height` and `width` pixels. The two differ where its sign is random.
    """

    def level(low: float, high: float) -> float:
        return float(torch.linspace(low, high, MAGNITUDES)[magnitude])  # in float32, as there

    shear, turn, blend, threshold = level(0, 0.3), level(0, 30), level(0, 0.9), 255 * level(1, 0)
    down, right = (int(level(0, 150 / 331 * size)) / size for size in (height, width))
    bits = round(8 - magnitude / ((MAGNITUDES - 1) / 4))
    return {
        "Identity": (identity, 0, 0),
        "ShearX": (shear_x, -shear, shear),
        "ShearY": (shear_y, -shear, shear),
        "TranslateX": (translate_x, right, -right),
        "TranslateY": (translate_y, down, -down),
        "Rotate": (rotate, -turn, turn),
        "Brightness": (brightness, 1 - blend, 1 + blend),
        "Color": (color, 1 - blend, 1 + blend),
        "Contrast": (contrast, 1 - blend, 1 + blend),
        "Sharpness": (sharpness, 1 - blend, 1 + blend),
        "Posterize": (posterize, bits, bits),
        "Solarize": (solarize, threshold, threshold),
        "AutoContrast": (autocontrast, 0, 0),
        "Equalize": (equalize, 0, 0),
    }


def identity(images: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    """The images as they are; the magnitude is not used."""
    return images


def autocontrast(images: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    """`ImageOps.autocontrast(image)`: stretch each channel to 0..255; the magnitude is not used."""
    pixels = images.flatten(2)
    low, high = pixels.amin(2, keepdim=True).double(), pixels.amax(2, keepdim=True).double()
    # A tensor over a tensor: `255 / tensor` would be the product with a reciprocal, which rounds differently.
    scale = torch.where(high > low, torch.full_like(low, 255) / (high - low), torch.ones_like(low))
    offset = torch.where(high > low, -low * scale, torch.zeros_like(low))
    table = torch.arange(256, device=images.device) * scale + offset
    return _look_up(table, pixels.long()).view_as(images)


def equalize(images: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    """`ImageOps.equalize(image)`: flatten each channel's histogram; the magnitude is not used."""
    pixels = images.flatten(2).long()
    histogram = torch.zeros(*pixels.shape[:2], 256, dtype=torch.int32, device=images.device)
    histogram.scatter_add_(2, pixels, torch.ones((), dtype=torch.int32, device=images.device).expand_as(pixels))
    brightest = histogram.gather(2, pixels.amax(2, keepdim=True))
    step = (pixels.shape[2] - brightest) // 255
    darker = histogram.cumsum(2, dtype=torch.int32) - histogram
    table = (step // 2 + darker) // step.clamp(min=1)
    unchanged = torch.arange(256, dtype=torch.int32, device=images.device)
    return _look_up(torch.where(step > 0, table, unchanged), pixels).view_as(images)


def posterize(images: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    """`ImageOps.posterize(image, bits)`: keep the highest int(magnitude) bits of each value, 1 to 8."""
    step = 2 ** (8 - magnitude.int())
    return images & _per_image(256 - step).to(torch.uint8)


def solarize(images: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    """`ImageOps.solarize(image, threshold)`: invert the values that reach the threshold, 0 to 256."""
    inverted = images >= _per_image(magnitude)
    return images ^ inverted.to(torch.uint8) * 255


def brightness(images: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    """`ImageEnhance.Brightness(image).enhance(factor)`: blend with black."""
    return _blend(torch.zeros_like(images), images, magnitude)


def color(images: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    """`ImageEnhance.Color(image).enhance(factor)`: blend with the grey image."""
    return _blend(_luminance(images), images, magnitude)


def contrast(images: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    """`ImageEnhance.Contrast(image).enhance(factor)`: blend with the mean grey."""
    total, count = _luminance(images).sum((2, 3), keepdim=True), images.shape[2] * images.shape[3]
    return _blend((2 * total + count) // (2 * count), images, magnitude)


def sharpness(images: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    """`ImageEnhance.Sharpness(image).enhance(factor)`: blend with the smoothed image, whose border is the original."""
    wide = images.float()
    box = wide[..., :-2, :] + wide[..., 1:-1, :] + wide[..., 2:, :]
    box = box[..., :-2] + box[..., 1:-1] + box[..., 2:]
    weighted = box.add_(wide[..., 1:-1, 1:-1], alpha=4)  # kernel 1 1 1 / 1 5 1 / 1 1 1, whose sum is 13
    smooth = wide.clone()
    smooth[..., 1:-1, 1:-1] = weighted.div_(13).add_(0.5).floor_()
    return _blend(smooth, images, magnitude)


def rotate(images: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    """`image.rotate(angle)`: degrees counter-clockwise about the centre, nearest pixel, black outside."""
    height, width = images.shape[2:]
    angle = -torch.deg2rad(magnitude.double())
    cos, sin = angle.cos(), angle.sin()
    x, y = width / 2, height / 2
    return _affine(images, cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y)


def shear_x(images: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    """`image.transform(size, AFFINE, (1, magnitude, 0, 0, 1, 0))`: nearest pixel, black outside."""
    return _affine(images, b=magnitude.double())


def shear_y(images: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    """`image.transform(size, AFFINE, (1, 0, 0, magnitude, 1, 0))`: nearest pixel, black outside."""
    return _affine(images, d=magnitude.double())


def translate_x(images: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    """`image.transform(size, AFFINE, (1, 0, magnitude * width, 0, 1, 0))`: nearest pixel, black outside."""
    return _affine(images, c=(magnitude.double() * images.shape[3] + 0.5).floor())


def translate_y(images: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    """`image.transform(size, AFFINE, (1, 0, 0, 0, 1, magnitude * height))`: nearest pixel, black outside."""
    return _affine(images, f=(magnitude.double() * images.shape[2] + 0.5).floor())


def _per_image(values):
    return values.view(-1, 1, 1, 1)


def _look_up(table, pixels):
    """Replace each value of `pixels`, int64 (n, 3, H * W), by its entry in `table`, (n, 3, 256)."""
    return table.clamp_(0, 255).to(torch.uint8).gather(2, pixels)


def _luminance(images):
    """PIL's conversion to mode L. Returns int32 (n, 1, H, W)."""
    red, green, blue = images.int().unsqueeze(2).unbind(1)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def _blend(degenerate, images, factor):
    """`Image.blend`: single precision, then truncated."""
    degenerate = degenerate.float()
    return (images - degenerate).mul_(_per_image(factor.float())).add_(degenerate).clamp_(0, 255).to(torch.uint8)


def _affine(images, a=1, b=0, c=0, d=0, e=1, f=0):
    """Pixel (x, y) of the result is pixel (ax + by + c, dx + ey + f) of the image, or black where that is outside.

    Each coefficient is a number or a float64 tensor (n,). Positions are in 16.16 fixed point, as PIL computes them.
    """
    channels, height, width = images.shape[1:]

    def fixed(value):
        scaled = value * 65536 + 0.5
        return scaled.floor().int().view(-1, 1, 1) if torch.is_tensor(value) else math.floor(scaled)

    rows = torch.arange(height, dtype=torch.int32, device=images.device).view(1, height, 1)
    columns = torch.arange(width, dtype=torch.int32, device=images.device).view(1, 1, width)
    x = (fixed(a) * columns + (fixed(b) * rows + fixed(c + (a + b) * 0.5))) >> 16
    y = (fixed(d) * columns + (fixed(e) * rows + fixed(f + (d + e) * 0.5))) >> 16
    # One black pixel all around stands for everything outside.
    index = (y.clamp_(-1, height) + 1) * (width + 2) + (x.clamp_(-1, width) + 1)
    index = index.long().flatten(1).unsqueeze(1).expand(-1, channels, -1)
    return F.pad(images, [1] * 4).flatten(2).gather(2, index).view_as(images)
