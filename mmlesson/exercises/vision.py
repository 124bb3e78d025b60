"""The exercises of the Vision lesson."""

import torch

from mmlesson.exercises import DTYPES, exercise, randn, randomized, with_forward
from mmlesson.exercises.attention import run_and_record
from mmlesson.models import vision as model
from mmlesson.models.attention import merge_heads, split_heads

# Patches ----------------------------------------------------------------------------------------------------------


def _flat(grid):
    return grid.flatten(3).flatten(1, 2)


def _patchify(axes="NhwCyx", split="NChywx", finish=_flat):
    """Patches with their axes in this order: h, w count the patches of an image; y, x the pixels of a patch."""

    def answer(images, patch):
        N, C, H, W = images.shape
        sizes = {"N": N, "C": C, "h": H // patch, "w": W // patch, "y": patch, "x": patch}
        grid = images.reshape([sizes[axis] for axis in split]).permute([split.index(axis) for axis in axes])
        return finish(grid.reshape(N, H // patch, W // patch, C, patch, patch))

    return answer


@exercise(
    verified="order of patches, order within a patch, images that are not square, sides of one, both float types",
    returns={"the patch tensor": "(N, P, C * patch * patch)"},
    forbidden=("unfold", "pixel_unshuffle", "conv2d"),
    correct=_patchify(),
    mistakes={
        "a reshape alone scrambles the pixels: split both sides, permute, flatten.": lambda images, patch: (
            images.reshape(len(images), -1, images.size(1) * patch**2)
        ),
        "the patches run down the columns: take them row by row, as one reads.": _patchify("NwhCyx"),
        "the channels come last in a patch: Conv2d has them first.": _patchify("NhwyxC"),
        "each patch is transposed: within a patch the row comes before the column.": _patchify("NhwCxy"),
        "a row holds one channel of several patches: C belongs behind the axes that count patches.": _patchify(
            "NChwyx"
        ),
        "a row holds pixels of several patches: swap the patch's rows with the grid's columns.": _patchify("NhCywx"),
        "a patch collects far pixels: split a side into (count, patch), not (patch, count).": _patchify(split="NCyhxw"),
        "height and width are swapped: split H into H // patch and patch, and W into W // patch and patch.": (
            lambda images, patch: _patchify()(images.reshape(images.mT.shape), patch)
        ),
        "the last two axes are swapped: the patches come before what they hold, (N, P, C * patch * patch).": _patchify(
            finish=lambda grid: _flat(grid).mT
        ),
        "the grid is not flattened: join rows and columns into one axis, P.": _patchify(finish=lambda g: g.flatten(3)),
        "the patches are not flattened: join channel, row and column.": _patchify(finish=lambda g: g.flatten(1, 2)),
    },
)
def patchify(answer):
    """patchify(images, patch) -> (N, P, C * patch * patch), the patches row by row, each in the order (C, row, column).

    images (N, C, H, W); H and W are multiples of patch. With this order a Linear on the patches equals a Conv2d whose
    kernel and stride are the patch.
    """
    # Sides that all differ, one image, one channel, one patch that is square, patches of one pixel, and all of these.
    shapes = (2, 3, 4, 6), (3, 2, 12, 6), (1, 3, 6, 4), (2, 1, 4, 10), (2, 3, 4, 4), (2, 3, 2, 5), (1, 1, 1, 1)
    for i, (shape, patch) in enumerate(zip(shapes, (2, 3, 2, 2, 4, 1, 1))):
        images = randn(*shape, seed=i, dtype=DTYPES[i % 2])
        answer.case(f"for images {shape} and patch {patch}", images=images, patch=patch)


# The vision transformer -------------------------------------------------------------------------------------------


def _look(cls, image_size, patch_size, images):
    encoder = cls(image_size=image_size, patch_size=patch_size, width=8, layers=2, heads=2, embed_dim=6)
    return randomized(encoder, images)(images)


def _patches(vit, images):
    return vit.conv1(images).flatten(2).mT


def _with_class_token(vit, x):
    return torch.cat([vit.class_embedding.expand(len(x), 1, -1), x], dim=1)


def _vit(
    patches=_patches,
    first=_with_class_token,
    start=lambda vit, x: vit.ln_pre(x + vit.positional_embedding),
    read=lambda vit, x: vit.ln_post(x[:, 0]) @ vit.proj,
):
    """The vision transformer, put together from steps that a mistake replaces."""

    def forward(self, images):
        return read(self, self.transformer(start(self, first(self, patches(self, images)))))

    return with_forward(model.VisionTransformer, forward)


def _positions_for_patches_only(vit, x):
    return _with_class_token(vit, x + vit.positional_embedding[1:])


@exercise(
    verified="order of patches, class token, positions, both norms, the projection, gradients, one image, one patch",
    returns={"the features": "(N, embed_dim)"},
    step=True,
    use=_look,
    pace=lambda: dict(image_size=32, patch_size=4, images=randn(64, 3, 32, 32, seed=0)),
    correct=model.VisionTransformer,
    mistakes={
        "the patches are scrambled: flatten the grid's two axes, then swap them with the channels.": _vit(
            lambda vit, images: vit.conv1(images).flatten(1).unflatten(1, (-1, vit.conv1.out_channels))
        ),
        "the patches run down the columns: take them row by row, as flatten(2) does.": _vit(
            lambda vit, images: vit.conv1(images).mT.flatten(2).mT
        ),
        "the class token stands last: put it before the patches, where position 0 is.": _vit(
            first=lambda vit, x: _with_class_token(vit, x).roll(-1, 1)
        ),
        "the positions are missing: add self.positional_embedding before the first norm.": _vit(
            start=lambda vit, x: vit.ln_pre(x)
        ),
        "the class token gets no position: add the positions after it has joined the patches.": _vit(
            first=_positions_for_patches_only, start=lambda vit, x: vit.ln_pre(x)
        ),
        "the positions are added after ln_pre: CLIP normalizes the sum.": _vit(
            start=lambda vit, x: vit.ln_pre(x) + vit.positional_embedding
        ),
        "ln_pre is missing: CLIP normalizes once before the first block.": _vit(
            start=lambda vit, x: x + vit.positional_embedding
        ),
        "ln_post is missing: normalize the class token's last state.": _vit(read=lambda vit, x: x[:, 0] @ vit.proj),
        "ln_pre serves twice: the last state has its own norm, ln_post.": _vit(
            read=lambda vit, x: vit.ln_pre(x[:, 0]) @ vit.proj
        ),
        "the projection is missing: multiply with self.proj.": _vit(read=lambda vit, x: vit.ln_post(x[:, 0])),
        "this is the mean over all tokens: CLIP reads the class token.": _vit(
            read=lambda vit, x: vit.ln_post(x.mean(dim=1)) @ vit.proj
        ),
        "this is the mean over the patches: CLIP reads the class token.": _vit(
            read=lambda vit, x: vit.ln_post(x[:, 1:].mean(dim=1)) @ vit.proj
        ),
        "this is the last patch: the class token stands first.": _vit(
            read=lambda vit, x: vit.ln_post(x[:, -1]) @ vit.proj
        ),
        "this is one vector per token: read the class token alone.": _vit(
            read=lambda vit, x: vit.ln_post(x) @ vit.proj
        ),
    },
)
def VisionTransformer(answer):
    """VisionTransformer.forward(images) -> (N, embed_dim): patches, class token, positions, ln_pre, blocks, ln_post.

    images (N, 3, image_size, image_size). The class token is token 0, and its last state is what is read.
    """
    for dtype, (N, size, patch) in zip((*DTYPES, *DTYPES), ((2, 8, 4), (3, 6, 2), (1, 12, 4), (2, 4, 4))):
        images = randn(N, 3, size, size, seed=size, dtype=dtype)
        told = f"for images {tuple(images.shape)} and patches of {patch}"
        answer.case(told, image_size=size, patch_size=patch, images=images)
    images = randn(2, 3, 8, 8, seed=1)
    answer.case(image_size=8, patch_size=4, images=images, gradients=("images",))


# Attention pooling ------------------------------------------------------------------------------------------------


def _pool(cls, width, heads, x):
    pool = cls(cells=x.size(2) * x.size(3), width=width, heads=heads, embed_dim=5)
    return run_and_record(randomized(pool, x), x)


def _mean_and_cells(pool, cells):
    return torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1) + pool.positional_embedding


def _attention_pool(
    tokens=_mean_and_cells,
    query=lambda x: x[:, :1],
    keys=lambda x: x,
    order="qkv",
    split=split_heads,
    attend=lambda pool, q, k, v: pool.attend(q, k, v),
    read=lambda pool, y: pool.c_proj(y[:, 0]),
):
    """Attention pooling, put together from steps that a mistake replaces."""

    def forward(self, x):
        x = tokens(self, x.flatten(2).mT)
        projections = dict(zip("qkv", (self.q_proj, self.k_proj, self.v_proj)))
        parts = zip(order, (query(x), keys(x), keys(x)))
        q, k, v = (split(projections[name](y), self.heads) for name, y in parts)
        return read(self, merge_heads(attend(self, q, k, v)))

    return with_forward(model.AttentionPool, forward)


@exercise(
    verified="who asks, who answers, positions, heads, projections, recording, gradients, one cell, both float types",
    returns={"the pooled vector": "(N, embed_dim)", "the recorded weights": "(N, heads, 1, 1 + cells)"},
    step=True,
    use=_pool,
    pace=lambda: dict(width=128, heads=8, x=randn(128, 128, 4, 4, seed=0)),
    correct=model.AttentionPool,
    mistakes={
        "the first cell asks: put the mean before the cells, and let it ask.": _attention_pool(
            query=lambda x: x[:, 1:2]
        ),
        "the mean stands behind the cells: position 0 is the mean's.": _attention_pool(
            tokens=lambda pool, cells: (
                torch.cat([cells, cells.mean(dim=1, keepdim=True)], dim=1) + pool.positional_embedding
            ),
            query=lambda x: x[:, -1:],
        ),
        "the mean gives no answer: it is one of the 1 + cells keys and values.": _attention_pool(
            keys=lambda x: x[:, 1:]
        ),
        "the positions are missing: add self.positional_embedding to the mean and the cells.": _attention_pool(
            tokens=lambda pool, cells: torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1)
        ),
        "the positions are added before the mean is taken: take the mean of the bare cells.": _attention_pool(
            tokens=lambda pool, cells: torch.cat(
                [
                    (cells + pool.positional_embedding[1:]).mean(dim=1, keepdim=True) + pool.positional_embedding[:1],
                    cells + pool.positional_embedding[1:],
                ],
                dim=1,
            )
        ),
        "all tokens ask, and the mean's answer is read: let the mean alone ask, x[:, :1].": _attention_pool(
            query=lambda x: x
        ),
        "all tokens ask, and their answers are averaged: the mean alone asks.": _attention_pool(
            query=lambda x: x, read=lambda pool, y: pool.c_proj(y.mean(dim=1))
        ),
        "there is one head: split queries, keys and values with split_heads.": _attention_pool(
            split=lambda y, heads: y[:, None]
        ),
        "q_proj and k_proj are swapped.": _attention_pool(order="kqv"),
        "k_proj and v_proj are swapped.": _attention_pool(order="qvk"),
        "c_proj is missing: it maps the width to embed_dim.": _attention_pool(read=lambda pool, y: y[:, 0]),
        "an axis of one query is left: return (N, embed_dim).": _attention_pool(read=lambda pool, y: pool.c_proj(y)),
        "this is average pooling, every cell with the same weight: let self.attend weigh them.": _attention_pool(
            attend=lambda pool, q, k, v: v.mean(dim=2, keepdim=True)
        ),
        "nothing is recorded: let self.attend do the attention, so that `recording` can see the weights.": (
            _attention_pool(attend=lambda pool, q, k, v: torch.nn.functional.scaled_dot_product_attention(q, k, v))
        ),
    },
)
def AttentionPool(answer):
    """AttentionPool.forward(x) -> (N, embed_dim): the mean of the grid asks, the mean and all cells answer.

    x (N, width, H, W). Of the 1 + H * W keys the first is the mean. `self.attend` does the attention.
    """
    for dtype, (N, width, heads, H, W) in zip(
        (*DTYPES, *DTYPES), ((2, 8, 2, 3, 4), (3, 6, 3, 2, 2), (1, 4, 2, 1, 3), (2, 4, 1, 1, 1))
    ):
        x = randn(N, width, H, W, seed=width + H, dtype=dtype)
        answer.case(f"for x {tuple(x.shape)} and {heads} head{'s'[: heads > 1]}", width=width, heads=heads, x=x)
    answer.case(width=8, heads=2, x=randn(2, 8, 3, 4, seed=2), gradients=("x",))
