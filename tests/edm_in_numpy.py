"""EDM's three U-Nets in NumPy, float64 and NCHW, from their description.

Weights are a dict under the names and in the shapes of the original's `state_dict`.
Nothing here knows how jaxdiv builds its networks.
"""

from typing import NamedTuple

import numpy as np


class Kind(NamedTuple):
    eps: float = 1e-6
    skip_scale: float = 0.5**0.5
    taps: tuple = (1, 1)
    adm: bool = False
    ncsnpp: bool = False


DDPMPP = Kind()
NCSNPP = Kind(taps=(1, 3, 3, 1), ncsnpp=True)
ADM = Kind(eps=1e-5, skip_scale=1.0, adm=True)


class Size(NamedTuple):
    resolution: int
    channels: int
    mult: tuple
    blocks: int
    attention: tuple = ()
    labels: int = 0
    augment: int = 0
    head: int = 64


# The state dict.


def state_shapes(kind, size):
    """Every tensor of a model with 3 channels: name -> shape."""
    c, found = size.channels, {}
    embed, noise = 4 * c, (2 if kind.ncsnpp else 1) * c

    def layer(name, *shape, bias=True):
        found[f"model.{name}.weight"] = shape
        if bias:
            found[f"model.{name}.bias"] = shape[:1]

    def resampler(name):
        found[f"model.{name}.resample_filter"] = (1, 1, *2 * (len(kind.taps),))

    def block(name, c_in, c_out, *, resample=False, attention=False):
        layer(f"{name}.norm0", c_in)
        layer(f"{name}.conv0", c_out, c_in, 3, 3)
        layer(f"{name}.affine", (2 if kind.adm else 1) * c_out, embed)
        layer(f"{name}.norm1", c_out)
        layer(f"{name}.conv1", c_out, c_out, 3, 3)
        if c_in != c_out or (resample and not kind.adm):
            layer(f"{name}.skip", c_out, c_in, 1, 1)
        if resample:
            resampler(f"{name}.conv0")
            resampler(f"{name}.skip")
        if attention:
            layer(f"{name}.norm2", c_out)
            layer(f"{name}.qkv", 3 * c_out, c_out, 1, 1)
            layer(f"{name}.proj", c_out, c_out, 1, 1)

    if kind.ncsnpp:
        found["model.map_noise.freqs"] = (c,)
    if size.labels:
        width = embed if kind.adm else noise
        layer("map_label", width, size.labels, bias=not kind.adm)
    if size.augment:
        layer("map_augment", noise, size.augment, bias=False)
    layer("map_layer0", embed, noise)
    layer("map_layer1", embed, embed)

    now, image, skips = c * size.mult[0] if kind.adm else c, 3, []
    for level, mult in enumerate(size.mult):
        r = size.resolution >> level
        if level == 0:
            layer(f"enc.{r}x{r}_conv", now, 3, 3, 3)
        else:
            block(f"enc.{r}x{r}_down", now, now, resample=True)
            if kind.ncsnpp:
                layer(f"enc.{r}x{r}_aux_residual", now, image, 3, 3)
                resampler(f"enc.{r}x{r}_aux_residual")
                image = now
        skips.append(now)
        for i in range(size.blocks):
            attends = r in size.attention
            block(f"enc.{r}x{r}_block{i}", now, c * mult, attention=attends)
            skips.append(now := c * mult)
    for level, mult in reversed([*enumerate(size.mult)]):
        r = size.resolution >> level
        if level == len(size.mult) - 1:
            block(f"dec.{r}x{r}_in0", now, now, attention=True)
            block(f"dec.{r}x{r}_in1", now, now)
        else:
            block(f"dec.{r}x{r}_up", now, now, resample=True)
        for i in range(size.blocks + 1):
            attends = r in size.attention and (kind.adm or i == size.blocks)
            joined = now + skips.pop()
            block(f"dec.{r}x{r}_block{i}", joined, c * mult, attention=attends)
            now = c * mult
    if kind.adm:
        layer("out_norm", now)
        layer("out_conv", 3, now, 3, 3)
    else:
        layer(f"dec.{r}x{r}_aux_norm", now)
        layer(f"dec.{r}x{r}_aux_conv", 3, now, 3, 3)
    return found


def draw(kind, size, seed=0):
    """Weights of the size that keeps activations near 1, none at a special value."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, shape in state_shapes(kind, size).items():
        if name.endswith("resample_filter"):
            taps = np.array(kind.taps)
            found[name] = np.outer(taps, taps)[None, None] / taps.sum() ** 2
        elif name.endswith("freqs"):
            found[name] = rng.standard_normal(shape)
        else:
            scale = 0.2 if len(shape) == 1 else np.prod(shape[1:]) ** -0.5
            found[name] = scale * rng.standard_normal(shape)
            if "norm" in name and name.endswith("weight"):
                found[name] += 1
    return found


# Layers.


def silu(x):
    return x / (1 + np.exp(-x))


def conv(x, kernel, bias=0.0, pad=None):
    k = kernel.shape[-1]
    pad = k // 2 if pad is None else pad
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    h, w = (n - k + 1 for n in x.shape[2:])
    out = np.zeros((len(x), len(kernel), h, w))
    for i in range(k):
        for j in range(k):
            part = x[:, :, i : i + h, j : j + w]
            out += np.einsum("bchw,oc->bohw", part, kernel[:, :, i, j])
    return out + np.reshape(bias, (-1, 1, 1))


def down(x, taps, pad=None):
    """Correlation of each channel with the filter, at every second place."""
    pad = (len(taps) - 1) // 2 if pad is None else pad
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    h, w = ((n - len(taps)) // 2 + 1 for n in x.shape[2:])
    out = np.zeros((*x.shape[:2], h, w))
    for i, a in enumerate(taps):
        for j, b in enumerate(taps):
            part = x[:, :, i : i + 2 * h : 2, j : j + 2 * w : 2][:, :, :h, :w]
            out += a * b / sum(taps) ** 2 * part
    return out


def up(x, taps):
    """Every pixel spread by 4 times the filter, and the margin cut off."""
    (b, c, h, w), n = x.shape, len(taps)
    out = np.zeros((b, c, 2 * h + n - 2, 2 * w + n - 2))
    for i in range(h):
        for j in range(w):
            spread = 4 * np.outer(taps, taps) / sum(taps) ** 2
            place = out[:, :, 2 * i : 2 * i + n, 2 * j : 2 * j + n]
            place += x[:, :, i, j, None, None] * spread
    cut = (n - 1) // 2
    return out[:, :, cut : cut + 2 * h, cut : cut + 2 * w]


def group_norm(x, scale, bias, eps):
    b, c, h, w = x.shape
    grouped = x.reshape(b, min(32, c // 4), -1)
    mean, var = (f(grouped, axis=-1, keepdims=True) for f in (np.mean, np.var))
    x = ((grouped - mean) / np.sqrt(var + eps)).reshape(x.shape)
    return x * scale[:, None, None] + bias[:, None, None]


def attention(qkv, heads):
    b, c3, h, w = qkv.shape
    out = np.zeros((b, c3 // 3, h * w))
    width = c3 // 3 // heads
    for image, result in zip(qkv.reshape(b, c3, -1), out, strict=True):
        for head in range(heads):
            channels = image[3 * width * head : 3 * width * (head + 1)]
            q, k, v = channels[0::3], channels[1::3], channels[2::3]
            logits = q.T @ k / np.sqrt(width)
            weights = np.exp(logits - logits.max(1, keepdims=True))
            weights /= weights.sum(1, keepdims=True)
            result[width * head : width * (head + 1)] = v @ weights.T
    return out.reshape(b, c3 // 3, h, w)


class Model(NamedTuple):
    kind: Kind
    size: Size
    weights: dict

    def get(self, name):
        return self.weights[f"model.{name}"]

    def has(self, layer):
        return f"model.{layer}.weight" in self.weights

    def norm(self, name, x):
        params = (self.get(f"{name}.{part}") for part in ("weight", "bias"))
        return group_norm(x, *params, self.kind.eps)

    def conv(self, name, x):
        return conv(x, self.get(f"{name}.weight"), self.get(f"{name}.bias"))

    def linear(self, name, x):
        bias = self.weights.get(f"model.{name}.bias", 0.0)
        return np.einsum("bi,oi->bo", x, self.get(f"{name}.weight")) + bias

    def embed(self, noise, labels, augment):
        """The embedding, (B, 4 channels)."""
        kind, channels = self.kind, self.size.channels
        if kind.ncsnpp:
            angles = 2 * np.pi * np.outer(noise, self.get("map_noise.freqs"))
        else:
            half = channels // 2
            last = half if kind.adm else half - 1
            angles = np.outer(noise, 1e-4 ** (np.arange(half) / last))
        waves = [np.sin(angles), np.cos(angles)]
        e = np.concatenate(waves[::-1] if kind.adm else waves, axis=1)
        if self.has("map_label") and not kind.adm:
            e = e + self.linear("map_label", labels * np.sqrt(labels.shape[1]))
        if self.has("map_augment"):
            e = e + self.linear("map_augment", augment)
        e = self.linear("map_layer1", silu(self.linear("map_layer0", e)))
        if self.has("map_label") and kind.adm:
            e = e + self.linear("map_label", labels)
        return silu(e)

    def block(self, name, x, embedding, resample=lambda x: x):
        kind = self.kind
        h = self.conv(f"{name}.conv0", resample(silu(self.norm(f"{name}.norm0", x))))
        affine = self.linear(f"{name}.affine", embedding)[:, :, None, None]
        if kind.adm:
            scale, shift = affine[:, : h.shape[1]], affine[:, h.shape[1] :]
            h = silu(shift + self.norm(f"{name}.norm1", h) * (scale + 1))
        else:
            h = silu(self.norm(f"{name}.norm1", h + affine))
        h = self.conv(f"{name}.conv1", h)
        x = resample(x)
        if self.has(f"{name}.skip"):
            x = self.conv(f"{name}.skip", x)
        x = (h + x) * kind.skip_scale
        if self.has(f"{name}.qkv"):
            qkv = self.conv(f"{name}.qkv", self.norm(f"{name}.norm2", x))
            heads = x.shape[1] // self.size.head if kind.adm else 1
            mixed = attention(qkv, heads)
            x = (self.conv(f"{name}.proj", mixed) + x) * kind.skip_scale
        return x

    def encode(self, x, embedding):
        taps = self.kind.taps
        top = f"enc.{self.size.resolution}x{self.size.resolution}"
        image, x = x, self.conv(f"{top}_conv", x)
        skips = [x]
        for level in range(len(self.size.mult)):
            r = self.size.resolution >> level
            if level:
                x = self.block(
                    f"enc.{r}x{r}_down", x, embedding, lambda x: down(x, taps)
                )
                if self.kind.ncsnpp:
                    name = f"enc.{r}x{r}_aux_residual"
                    wide = conv(image, self.get(f"{name}.weight"), pad=2)
                    image = down(wide, taps, pad=0)
                    image += self.get(f"{name}.bias")[:, None, None]
                    x = image = (x + image) / np.sqrt(2)
                skips.append(x)
            for i in range(self.size.blocks):
                x = self.block(f"enc.{r}x{r}_block{i}", x, embedding)
                skips.append(x)
        return skips

    def decode(self, skips, embedding):
        x, skips = skips[-1], list(skips)
        for level in reversed(range(len(self.size.mult))):
            r = self.size.resolution >> level
            if level == len(self.size.mult) - 1:
                x = self.block(f"dec.{r}x{r}_in0", x, embedding)
                x = self.block(f"dec.{r}x{r}_in1", x, embedding)
            else:
                larger = lambda x: up(x, self.kind.taps)
                x = self.block(f"dec.{r}x{r}_up", x, embedding, larger)
            for i in range(self.size.blocks + 1):
                x = np.concatenate([x, skips.pop()], axis=1)
                x = self.block(f"dec.{r}x{r}_block{i}", x, embedding)
        return x

    def __call__(self, x, noise, labels=None, augment=None):
        """The network's output for NHWC images."""
        embedding = self.embed(noise, labels, augment)
        skips = self.encode(np.moveaxis(x, -1, 1), embedding)
        x = self.decode(skips, embedding)
        top = f"dec.{self.size.resolution}x{self.size.resolution}"
        norm, last = (
            ("out_norm", "out_conv")
            if self.kind.adm
            else (f"{top}_aux_norm", f"{top}_aux_conv")
        )
        return np.moveaxis(self.conv(last, silu(self.norm(norm, x))), 1, -1)

    def denoise(self, x, sigma, labels=None, augment=None, sigma_data=0.5):
        """EDM's preconditioning around it."""
        s = np.reshape(sigma, (-1, 1, 1, 1))
        total = s**2 + sigma_data**2
        out = self(x / np.sqrt(total), np.log(sigma) / 4, labels, augment)
        return sigma_data**2 / total * x + s * sigma_data / np.sqrt(total) * out
